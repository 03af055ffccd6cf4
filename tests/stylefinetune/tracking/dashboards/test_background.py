import threading

from stylefinetune.tracking.dashboards.background import Background


def test_calls_run_in_order_and_errors_are_reported():
    done: list[int] = []
    errors: list[Exception] = []
    background = Background(errors.append)
    assert background.wait(60)  # there is nothing to wait for
    background.submit(lambda: done.append(1))
    background.submit(lambda: done.append(1 // 0))
    background.submit(lambda: done.append(2))
    assert background.wait(60)
    assert done == [1, 2]
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_a_call_that_hangs_delays_nothing_and_later_calls_never_start():
    gate = threading.Event()
    done: list[int] = []
    errors: list[Exception] = []
    background = Background(errors.append)

    def fail_late():
        gate.wait(60)
        raise ValueError

    background.submit(fail_late)
    background.submit(lambda: done.append(1))
    assert not background.wait(0.01)
    background.abandon()
    gate.set()
    background._thread.join(60)
    assert not background._thread.is_alive()
    assert (done, errors) == ([], [])
