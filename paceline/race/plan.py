STUB=1
from dataclasses import dataclass
PRESETS={"tiny":"tiny"}
@dataclass(frozen=True)
class RaceChallenge:
    preset: str
    race_seed: bytes
