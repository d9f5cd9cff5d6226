from mofo.measure import distance_metrics, learned_metrics
from mofo.results import Distance, Point


def test_learned_metrics_are_of_the_task():
    point = Point(step=0, learned={"sums": {"loss": 2.5, "accuracy": 0.25}, "other": {"loss": 9.0}}, forgotten={})
    loss, accuracy = learned_metrics("sums")
    assert (loss.of(point), accuracy.of(point)) == (2.5, 0.25)
    assert [(metric.task, metric.higher_is_better) for metric in (loss, accuracy)] == [("sums", False), ("sums", True)]


def test_distance_metrics_are_of_the_weights():
    point = Point(step=1, learned={}, forgotten={}, distance=Distance(l2=3.0, moved=0.5))
    assert [(metric.of(point), metric.of(point) * metric.scale) for metric in distance_metrics()] == [
        (3.0, 3.0),
        (0.5, 50.0),
    ]
