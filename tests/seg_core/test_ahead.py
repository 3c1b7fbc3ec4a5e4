import threading

import pytest

from seg_core.ahead import begun_ahead, made_ahead


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


def test_each_is_begun_before_the_one_before_is_waited_for():
    told = []

    def begin(item):
        told.append(f"begin {item}")

        def wait():
            told.append(f"wait {item}")
            return item * item

        return wait

    assert list(begun_ahead(begin, iter(range(3)))) == [0, 1, 4]
    assert told == ["begin 0", "begin 1", "wait 0", "begin 2", "wait 1", "wait 2"]
    assert list(begun_ahead(begin, [])) == []


def test_an_error_takes_the_place_of_its_result():
    found = begun_ahead(lambda n: lambda: 6 // n, [3, 0, 1])
    assert next(found) == 2
    with pytest.raises(ZeroDivisionError):
        next(found)
