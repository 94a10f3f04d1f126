"""The small model as a LightningModule that owns its criterion."""

import pytorch_lightning as pl


class LightningTask(pl.LightningModule):
    """Trains a task by an optimizer that is made already."""

    def __init__(self, task, optimizer):
        super().__init__()
        self.task, self.own_optimizer = task, optimizer

    def training_step(self, batch, batch_idx):
        return self.task(*batch)

    def configure_optimizers(self):
        return self.own_optimizer
