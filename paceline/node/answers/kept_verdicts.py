"""Verdicts that a checker is bound to and may not show yet, on disk: a restart must not lose what was committed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from paceline.node.home import write_whole
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.messages import JudgeTask


class KeptVerdicts:
    """One file per task."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, task_id: bytes) -> JudgeTask | None:
        """The kept verdict on a task."""
        path = self._path(task_id)
        return decode_own(JudgeTask, path.read_bytes()) if path.exists() else None

    def put(self, message: JudgeTask) -> None:
        """Keep a verdict before its hash is sent."""
        write_whole(self._path(message.task), encode(message))

    def forget_all_but(self, task_ids: Iterable[bytes]) -> None:
        """Drop the verdicts on tasks that are settled."""
        kept = {self._path(task_id).name for task_id in task_ids}
        for path in sorted(self._folder.glob("*.verdict")):
            if path.name not in kept:
                path.unlink()

    def _path(self, task_id: bytes) -> Path:
        return self._folder / f"{task_id.hex()}.verdict"
