"""Reads golden.log with HTCondor's own reader (`pip install htcondor==24.0.24`) and compares.

    CONDOR_CONFIG=/dev/null python -W ignore check.py
"""
import os

import htcondor

here = os.path.dirname(os.path.abspath(__file__))
events = list(htcondor.JobEventLog(os.path.join(here, "golden.log")).events(0))
seen = [(int(e.type), e.cluster, e.proc) for e in events]
expected = [
    (0, 1, 0), (0, 1, 1), (0, 1, 2),
    (1, 1, 0), (5, 1, 0),
    (1, 1, 1), (4, 1, 1),
    (1, 1, 2), (4, 1, 2),
    (1, 1, 1), (5, 1, 1),
    (12, 1, 2), (13, 1, 2), (9, 1, 2),
]
assert seen == expected, seen
good, bad = events[4], events[10]
assert good["TerminatedNormally"] is True and good["ReturnValue"] == 0, dict(good)
assert bad["TerminatedNormally"] is False and bad["TerminatedBySignal"] == 11, dict(bad)
assert bad["RunRemoteUsage"] == "Usr 0 01:02:03, Sys 0 00:00:00", dict(bad)
requeued, evicted = events[6], events[8]
assert requeued["TerminatedAndRequeued"] is True and requeued["ReturnValue"] == 3, dict(requeued)
assert requeued["Reason"] == "it exited with 3; retry 1 of 1", dict(requeued)
assert evicted["TerminatedAndRequeued"] is False, dict(evicted)
held, released, aborted = events[11], events[12], events[13]
assert held["HoldReason"] == "by user" and held["HoldReasonCode"] == 1, dict(held)
assert held["HoldReasonSubCode"] == 0, dict(held)
assert released["Reason"] == "by user" and aborted["Reason"] == "by user"
assert events[3]["ExecuteHost"] == "<10.0.0.1:5051>" and events[3]["SlotName"] == "slot1@here"
assert events[0]["SubmitHost"] == "<here>", dict(events[0])
print(f"{len(events)} events are as they should be")
