"""Diagnosis of a prior that a scheme weighs."""

from lossbalance.callbacks.diagnostics import diagnose
from lossbalance.callbacks.epochs import Epochs
from lossbalance.callbacks.keys import key


def messages(kl: float, conflict: float) -> list[str]:
    means = {
        key("loss", "recon"): 1.04,
        key("loss", "kl"): kl,
        key("weight", "recon"): 1.0,
        key("weight", "kl"): 1e4,
        key("conflict", "recon/kl"): conflict,
        key("cosine", "recon/kl"): -0.05,
        "epoch": 0,
    }
    history = [means | {"epoch": i, key("loss", "recon"): 1.04 - 0.01 * i} for i in range(3)]
    epochs = Epochs(["recon", "kl"], [], [], {"recon/kl": ("recon", "kl")}, history, [])
    return [message for _, message in diagnose(epochs) if "is it a prior" in message]


def test_a_term_at_its_minimum_that_opposes_another_in_nearly_all_steps_is_asked_for_as_a_prior():
    (message,) = messages(kl=1e-6, conflict=0.99)
    assert message.startswith("'kl' points against 'recon' in 99% of the steps since epoch 0, and stays at its minimum")
    assert "fixed={'kl': ...}" in message
    assert messages(kl=1e-6, conflict=0.6) == []
    assert messages(kl=0.5, conflict=0.99) == []
