"""What was learned, what was forgotten, and how far the weights moved: for any two models, whoever tuned them."""

from mofo.measure.distance import weight_distance
from mofo.measure.generation import answer_accuracy
from mofo.measure.kinds import check_probe_specs, make_probes, probe_states
from mofo.measure.metrics import distance_metrics, learned_metrics
from mofo.measure.probe import Probe
from mofo.measure.scoring import held_out_loss
from mofo.measure.writing import write_texts

__all__ = [
    "Probe",
    "answer_accuracy",
    "check_probe_specs",
    "distance_metrics",
    "held_out_loss",
    "learned_metrics",
    "make_probes",
    "probe_states",
    "weight_distance",
    "write_texts",
]
