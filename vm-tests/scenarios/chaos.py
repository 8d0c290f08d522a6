# Faults from a fixed seed while concurrent users append, transfer and read: whatever they were told is true afterwards, on every
# member. The long runs, with every kind of fault, are ./lab chaos (docs/chaos.md).
# app: ledger

from types import SimpleNamespace

from chaos import rounds, schedule

SEED = 7
FAULTS = ["kill", "freeze", "cut-one-way", "lag"]

start_all()
site_answers()
wait_for_members(NODES, timeout=BOOT)
settled()
site = SimpleNamespace(**globals())
users = rounds.Ledger()
users.prepare(site)

plan = schedule.plan(SEED, FAULTS)
for step in [next(plan) for _ in FAULTS]:
    with subtest(str(step)):
        result = rounds.run(site, step, f"r{step.number}", client.out_dir / f"round-{step.number}", users)
        note(f"{step}: {result.summary()}")
        assert result.error is None, f"{step}: {result.error}; the state and the users' history: {client.out_dir}/round-{step.number}"
        failed = {"requests": result.requests, "failed": sum(result.failed.values()), "problems": result.failed}
        measured(str(step), {
            "reads": {"longest_outage": result.outage["read"]} | failed,  # failed, of all requests
            "writes": {"longest_outage": result.outage["write"], "succeeded": result.acknowledged, "requests": 0, "failed": 0, "problems": {}},
        }, lost=result.lost)
        assert result.passed, f"{step}: {result.anomalies}"
