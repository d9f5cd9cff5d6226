"""What was learned, what was forgotten, and how far the weights moved: for any two models, whoever tuned them."""

from mofo.measure.distance import distance
from mofo.measure.divergence import write_texts
from mofo.measure.generation import answer_accuracy
from mofo.measure.probes import Probe, check_probe_specs, make_probes
from mofo.measure.scoring import held_out_loss

__all__ = [
    "Probe",
    "answer_accuracy",
    "check_probe_specs",
    "distance",
    "held_out_loss",
    "make_probes",
    "write_texts",
]
