"""Learning rules as lists of units, against the block ranges written out by hand for ResNet-50."""

from __future__ import annotations

import pytest

from pretrain.local_units import LocalUnit, build_units, unit_names

RESNET50 = {"res2": (0, 3), "res3": (3, 7), "res4": (7, 13), "res5": (13, 16)}


@pytest.mark.parametrize(
    ("rule", "ranges"),
    [
        ("simclr", [(0, 16)]),
        ("gim", [(0, 3), (3, 7), (7, 13), (13, 16)]),
        ("loco", [(0, 3), (0, 7), (3, 13), (7, 16)]),
        (dict(type="loco", res2_loss=False), [(0, 7), (3, 13), (7, 16)]),
        (dict(type="loco", window=3), [(0, 3), (0, 7), (0, 13), (3, 16)]),
        (dict(type="loco", window=4), [(0, 3), (0, 7), (0, 13), (0, 16)]),
        (dict(type="sharing", blocks=1), [(0, 4), (3, 8), (7, 14), (13, 16)]),
        (dict(type="sharing", blocks=2), [(0, 5), (3, 9), (7, 15), (13, 16)]),
        ("upper_gradient", [(0, 7, (0, 3)), (3, 13, (3, 7)), (7, 16)]),
        ([(13, 16), (0, 4), (4, 13)], [(0, 4), (4, 13), (13, 16)]),
        ([dict(start=0, end=7, updates=[0, 3]), dict(start=3, end=16)], [(0, 7, (0, 3)), (3, 16)]),
    ],
)
def test_rules_on_resnet50(rule, ranges):
    """Every rule is the list of block ranges that the paper describes."""
    assert build_units(rule, RESNET50) == [LocalUnit(*r) for r in ranges]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("locco", "unknown learning rule 'locco'.*did you mean 'loco'"),
        (dict(type="loco", windw=3), "options of learning rule 'loco'"),
        (dict(type="loco", window=0), "window is 0"),
        ([], "at least one"),
        ([(0, 17)], r"\[0,17\) reaches past the encoder's end: it has 16 blocks"),
        ([(3, 3)], r"\[3, 3\) is no range"),
        ([(0, 16), (0, 16)], "more than once"),
        ([5], "not a pair"),
        (dict(type="sharing", blocks=4), "sharing 4 block.* stage res5, which has 3; 1 to 3 are possible"),
        ([dict(start=0, ende=16)], "not of the form dict"),
        ([dict(start=0, end=16, updates=(0, 17))], "cannot update blocks"),
        ([LocalUnit(0, 16, updates=(0, 7))], r"no local unit updates block\(s\) 7, 8"),
        ([(3, 16)], r"no local unit updates block\(s\) 0, 1, 2"),
    ],
)
def test_bad_rules_are_refused(rule, message):
    """Each mistake is named with its value."""
    with pytest.raises(ValueError, match=message):
        build_units(rule, RESNET50)


def test_untrained_blocks_need_a_flag():
    """The same list passes with the flag."""
    assert build_units([(3, 16)], RESNET50, allow_untrained=True) == [LocalUnit(3, 16)]


def test_names():
    """A unit is called by the stage at whose end its loss sits."""
    units = build_units([(0, 3), (0, 7), (3, 7), (7, 9), (9, 16)], RESNET50)
    assert unit_names(units, RESNET50) == ["res2", "res3_from0", "res3_from3", "block8", "res5"]


def test_names_of_units_that_update_different_blocks():
    """No two units share a name, so none vanishes from the log."""
    units = [LocalUnit(0, 7, updates=(0, 3)), LocalUnit(0, 7, updates=(3, 7)), LocalUnit(0, 7), LocalUnit(7, 16)]
    assert unit_names(units, RESNET50) == ["res3_from0_updating0to2", "res3_from0_updating3to6", "res3_from0_all", "res5"]
