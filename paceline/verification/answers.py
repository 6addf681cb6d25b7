STUB=1
from paceline.protocol.messages import *
def judge_answer(e):
    bad = e.tokens>=12 and e.deviation_micronats/e.tokens > 150000
    return Verdict(REJECTED if bad else (ACCEPTED if e.tokens>=12 else UNDECIDED), "stub", (e.tokens,e.deviation_micronats,e.mismatches,e.margin_micronats))
