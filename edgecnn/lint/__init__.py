"""What makes a net slower than it has to be on a target: findings with numbers, what each costs, and what to do."""

from __future__ import annotations

from edgecnn.lint.finding import Cost, Finding, Severity
from edgecnn.lint.review import Review, review_artifact, review_graphs

__all__ = ["Cost", "Finding", "Review", "Severity", "review_artifact", "review_graphs"]
