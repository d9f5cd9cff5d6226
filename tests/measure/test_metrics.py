from mofo.measure import distance_metrics, learned_metrics, sequence_metrics
from mofo.measure.scores import SCORES
from mofo.results import Distance, Point


def test_learned_metrics_are_of_the_task():
    point = Point(step=0, learned={"sums": {"loss": 2.5, "accuracy": 0.25}, "other": {"loss": 9.0}}, forgotten={})
    loss, accuracy = learned_metrics("sums")
    assert (loss.of(point), accuracy.of(point)) == (2.5, 0.25)
    assert [(metric.task, metric.higher_is_better) for metric in (loss, accuracy)] == [("sums", False), ("sums", True)]


def test_metrics_of_one_task_in_sequence_are_those_of_the_task():
    assert sequence_metrics({"sums": SCORES["accuracy"]}) == learned_metrics("sums")


def test_metrics_of_several_tasks_are_their_means_and_those_of_each():
    metrics = sequence_metrics({"sums": SCORES["accuracy"], "code": SCORES["edit-similarity"]})
    assert [(metric.source, metric.name, metric.task, metric.label) for metric in metrics] == [
        ("all tasks", "loss", None, "mean held-out loss"),
        ("all tasks", "score", None, "mean score"),
        ("sums", "loss", "sums", "sums loss"),
        ("sums", "accuracy", "sums", "sums accuracy"),
        ("code", "loss", "code", "code loss"),
        ("code", "edit_similarity", "code", "code edit similarity"),
    ]
    assert [metric.label for metric in metrics if metric.headline] == ["mean held-out loss"]


def test_distance_metrics_are_of_the_weights():
    point = Point(step=1, learned={}, forgotten={}, distance=Distance(l2=3.0, moved=0.5))
    assert [(metric.of(point), metric.of(point) * metric.scale) for metric in distance_metrics()] == [
        (3.0, 3.0),
        (0.5, 50.0),
    ]
