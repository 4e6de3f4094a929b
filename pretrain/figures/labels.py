"""Labels that tell apart what is drawn side by side."""

from __future__ import annotations

from collections.abc import Sequence


def told_apart(labels: Sequence[str], hints: Sequence[str], form: str = "{label} ({hint})") -> list[str]:
    """Labels as they are where they are unique, and otherwise with what tells them from their like.

    Args:
        labels: such as methods.
        hints: such as folders; one a label.
        form: how both are joined.
    """
    return [label if labels.count(label) == 1 else form.format(label=label, hint=hint)
            for label, hint in zip(labels, hints, strict=True)]
