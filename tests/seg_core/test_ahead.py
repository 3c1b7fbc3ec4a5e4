import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from seg_core.ahead import Begun, begun_ahead, made_ahead


def test_all_in_order_and_no_more_than_wanted_ahead():
    taken = []

    def items():
        for number in range(9):
            taken.append(number)
            yield number

    made = made_ahead(lambda n: n * n, items(), 2)
    for number in range(9):
        assert next(made) == number * number
        assert len(taken) == min(number + 3, 9)
    assert list(made_ahead(str, [])) == []


def test_the_next_one_is_made_while_one_is_used():
    begun = [threading.Event() for _ in range(3)]

    def make(number):
        begun[number].set()
        return number

    made = made_ahead(make, range(3))
    for number in range(2):
        assert next(made) == number
        assert begun[number + 1].wait(60)


def test_an_error_comes_in_the_place_of_its_result():
    made = made_ahead(lambda n: 6 // n, [3, 0, 1])
    assert next(made) == 2
    with pytest.raises(ZeroDivisionError):
        next(made)


def begun(result, log):
    """Work that is done in no thread, which says when it is waited for."""

    def join(parts):
        log.append(f"wait {result}")
        return 6 // result

    return Begun([], join)


def test_each_is_begun_before_the_one_before_is_waited_for():
    log = []

    def begin(number):
        log.append(f"begin {number}")
        return begun(number, log)

    assert list(begun_ahead(begin, iter((1, 2, 3)))) == [6, 3, 2]
    assert log == ["begin 1", "begin 2", "wait 1", "begin 3", "wait 2", "wait 3"]
    assert list(begun_ahead(begin, [])) == []


def test_an_error_takes_the_place_of_its_result():
    found = begun_ahead(lambda number: begun(number, []), [3, 0, 1])
    assert next(found) == 2
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_more_is_made_of_a_result_by_who_waits():
    work = Begun([], lambda parts: 3).then(lambda found: (found, threading.current_thread()))
    assert work.result() == (3, threading.current_thread())


@pytest.mark.parametrize("how", ["fails", "is closed"])
def test_what_nobody_waits_for_any_more_never_begins(how):
    done, go = [], threading.Event()

    def work(number):
        go.wait(60)
        done.append(number)
        if how == "fails" and number == 0:
            raise MemoryError
        time.sleep(0.1)

    with ThreadPoolExecutor(1) as pool:

        def begin(numbers):
            return Begun([pool.submit(work, number) for number in numbers], len)

        if how == "fails":
            found = begun_ahead(begin, [(0, 1), (2, 3), (4,)])
            threading.Timer(0.2, go.set).start()
            with pytest.raises(MemoryError):
                next(found)
        else:
            with closing(begun_ahead(begin, [(), (2,), (3, 4)])) as found:
                assert next(found) == 0  # 2 has begun
            go.set()
    assert set(done) <= ({0, 1} if how == "fails" else {2})  # what runs is not stopped
