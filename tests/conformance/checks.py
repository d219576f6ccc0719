"""Runs `builder check` on every case of the conformance suite, laid out as for a build.

Usage: checks.py SUITE BUILDER BASES STATE
Prints one JSON record a line: {"case", "result", "warnings", "output"}: what BuildKit recorded, and what
the builder printed. (The recordings hold names of files that are no text, which not every reader takes.)
Imports the suite's harness, which knows how a case is laid out and which flags it takes.
"""
import json
import os
import sys
import tempfile
import types

suite, builder, bases, state = sys.argv[1:]
sys.path.insert(0, suite)
import conform  # noqa: E402

arguments = types.SimpleNamespace(
    builder=builder,
    template="{builder} check {flags} --format json -f {dockerfile} {context}",
    bases_obj=conform.Bases(bases, {}),
    timeout=60,
    registry="127.0.0.1:5000",
    env=[],
    progress_flag="",
    state_env="BUILDER_ROOT",
)
bd = conform.Builder(arguments)
for case in conform.load_cases(os.path.join(suite, "cases"), only=["buildah-*"]):
    # A case that needs what the recording machine lacked has no answer.
    golden = os.path.join(suite, "golden", case.name + ".json")
    if not os.path.exists(golden):
        continue
    with open(golden) as f:
        want = json.load(f)
    with tempfile.TemporaryDirectory(prefix="cf", dir=conform.work_parent()) as work:
        staged = conform.stage(case, work)
        with conform.Helpers(staged) as helpers:
            build = bd.build(staged, helpers, os.path.join(work, "unused"), state=state)
    record = {"case": case.name, "result": want["result"], "warnings": want.get("warnings") or [], "output": build.log}
    print(json.dumps(record), flush=True)
