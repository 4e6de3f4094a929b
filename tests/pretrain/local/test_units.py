"""Learning rules as lists of units, against the block ranges written out by hand for ResNet-50."""

from __future__ import annotations

import pytest

from pretrain.local.units import LocalUnit, build_units, unit_names

RESNET50 = {"res2": (0, 3), "res3": (3, 7), "res4": (7, 13), "res5": (13, 16)}
RESNET18 = {"res2": (0, 2), "res3": (2, 4), "res4": (4, 6), "res5": (6, 8)}
PRESNET50 = {f"res{i + 2}": (3 * i, 3 * i + 3) for i in range(6)}
DECOUPLING_POINTS = {  # second paper, table 3: after block j of layer i, both counted from 1
    1: [],
    4: [(2, 1), (3, 1), (3, 5)],
    8: [(1, 2), (2, 1), (2, 3), (3, 1), (3, 3), (3, 5), (4, 1)],
    16: [(layer, block) for layer, depth in enumerate([3, 4, 6, 3], 1) for block in range(1, depth + 1)][:-1],
}


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
        (dict(type="decoupled", cuts=[5, 6]), [(0, 5), (5, 6), (6, 16)]),
        (dict(type="decoupled", cuts=()), [(0, 16)]),
        (dict(type="decoupled", k=4, window=2), [(0, 4), (0, 8), (4, 12), (8, 16)]),
        (dict(type="decoupled", cuts=(3, 7, 13), window=2), [(0, 3), (0, 7), (3, 13), (7, 16)]),
        ("upper_gradient", [(0, 7, (0, 3)), (3, 13, (3, 7)), (7, 16)]),
        ([(13, 16), (0, 4), (4, 13)], [(0, 4), (4, 13), (13, 16)]),
        ([dict(start=0, end=7, updates=[0, 3]), dict(start=3, end=16)], [(0, 7, (0, 3)), (3, 16)]),
    ],
)
def test_rules_on_resnet50(rule, ranges):
    """Every rule is the list of block ranges that the paper describes."""
    assert build_units(rule, RESNET50) == [LocalUnit(*r) for r in ranges]


@pytest.mark.parametrize(("k", "points"), DECOUPLING_POINTS.items())
def test_decoupling_points_of_resnet50(k, points):
    """Cut points as the second paper's table 3 counts them, after blocks of its layers."""
    starts = [start for start, _ in RESNET50.values()]
    cuts = [starts[layer - 1] + block for layer, block in points]
    expected = [LocalUnit(start, end) for start, end in zip([0, *cuts], [*cuts, 16], strict=True)]
    assert build_units(dict(type="decoupled", k=k), RESNET50) == expected
    assert build_units(dict(type="decoupled", cuts=cuts), RESNET50) == expected


@pytest.mark.parametrize(("k", "blocks"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_decoupled_blocks_of_resnet18(k, blocks):
    """Up to one unit a residual block, all equally long."""
    units = build_units(dict(type="decoupled", k=k), RESNET18)
    assert units == [LocalUnit(i * blocks, (i + 1) * blocks) for i in range(k)]


@pytest.mark.parametrize(("k", "stages", "message"), [
    (3, RESNET50, "encoder of 16 blocks cannot be cut into k=3 equal runs; k can be 1, 2, 4, 8, 16, and cuts="),
    (16, RESNET18, "encoder of 8 blocks cannot be cut into k=16 equal runs; k can be 1, 2, 4, 8, and cuts="),
    (4, PRESNET50, "encoder of 18 blocks cannot be cut into k=4 equal runs; k can be 1, 2, 3, 6, 9, 18, and cuts="),
    (0, RESNET18, "k=0 equal runs"),
    (-2, RESNET18, "k=-2 equal runs"),
    (4.0, RESNET50, "k=4.0 equal runs"),
    ("4", RESNET50, "k='4' equal runs"),
])
def test_numbers_of_decoupled_blocks_that_do_not_fit(k, stages, message):
    """The message lists those that do."""
    with pytest.raises(ValueError, match=message):
        build_units(dict(type="decoupled", k=k), stages)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("decoupled", r"k=None and cuts=None; give one of them, k=4 or cuts=\[4, 8, 12\]"),
        (dict(type="decoupled", k=4, cuts=[4]), r"k=4 and cuts=\[4\]; give one.*inherits: .* model.rule.k=None"),
        (dict(type="decoupled", cuts=[8, 4, 12]), r"cuts=\[8, 4, 12\] are not ascending; \[4, 8, 12\] would be"),
        (dict(type="decoupled", cuts=[4, 4]), r"cuts=\[4, 4\] are not ascending; \[4\] would be"),
        (dict(type="decoupled", cuts=[0, 4]), r"cuts=\[0, 4\] are not cut points of an encoder of 16 blocks; .* 1 to 15"),
        (dict(type="decoupled", cuts=[4, 16]), "a list of block indices from 1 to 15 is needed"),
        (dict(type="decoupled", cuts=["4"]), r"cuts=\['4'\] are not cut points"),
        (dict(type="decoupled", cuts=4), "cuts=4 are not cut points"),
        (dict(type="decoupled", k=4, window=0), "window is 0"),
        (dict(type="decoupled", k=4, window=2.5), "window is 2.5; .* a whole number of them"),
        (dict(type="loco", window=True), "window is True"),
        (dict(type="sharing", blocks=1.5), "sharing 1.5 block"),
        (dict(type="decoupled", blocks=4), "do not fit: unknown option 'blocks'; known are cuts, k, window"),
        ("locco", "unknown learning rule 'locco'.*did you mean 'loco'"),
        (dict(type="loco", windw=3), "learning rule 'loco' do not fit: unknown option 'windw'; .*; did you mean 'window'"),
        ("sharing", "options of learning rule 'sharing' do not fit: 'blocks' must be given"),
        (dict(type="loco", window=0), "window is 0"),
        ([], "at least one"),
        ([(0, 17)], r"\[0,17\) reaches past the encoder's end: it has 16 blocks"),
        ([(3, 3)], r"\[3, 3\) is not a range"),
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
