"""What an import costs."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys, time
import torch
start = time.process_time()
import lossbalance
from lossbalance import WeightedLoss
print(json.dumps([time.process_time() - start, [*sys.modules]]))
"""


def test_the_library_costs_little_on_top_of_torch_and_imports_neither_the_compiler_nor_lightning():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    seconds, modules = json.loads(run.stdout)
    assert seconds < 0.2
    assert not {"torch._dynamo", "pytorch_lightning", "lightning", "torchmetrics", "hydra", "pandas"} & set(modules)
