# Restarted for ever, with growing pauses: a server that stopped being restarted is an outage that waits for a person, and what
# it waits for (a full disk, an address) may come back by itself. `serviceConfig` of a unit, beside `startLimitIntervalSec = 0`.
{
  first, # pause before the first restart
  longest ? "5s",
}:
{
  Restart = "always";
  RestartSec = first;
  RestartSteps = 6;
  RestartMaxDelaySec = longest;
}
