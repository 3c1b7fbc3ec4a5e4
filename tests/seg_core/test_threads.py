import threading
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from seg_core.threads import cores, in_parts


@given(size=st.integers(0, 1000), at_least=st.integers(1, 1200))
def test_parts_follow_one_another_and_cover_all(size, at_least):
    parts = in_parts(lambda start, stop: (start, stop), size, at_least)
    assert parts[0][0] == 0
    assert parts[-1][1] == size
    assert all(before[1] == after[0] for before, after in pairwise(parts))
    assert len(parts) == max(1, min(cores(), size // at_least))
    assert len(parts) == 1 or all(stop - start >= at_least for start, stop in parts)


def test_a_single_part_stays_in_its_thread():
    assert in_parts(lambda start, stop: threading.current_thread(), 5, 10) == [threading.current_thread()]


def test_the_caller_does_the_first_part_itself():
    first, *others = in_parts(lambda start, stop: threading.current_thread(), 1000)
    assert first is threading.current_thread()
    assert first not in others
