# The unit of one Trivet program: readiness and watchdog over sd_notify, restarted for ever with growing pauses, sandboxed,
# its secrets handed over as credentials.
{ lib }:
{
  user,
  execStart,
  credentials ? { }, # name of the credential → file on the node
  after ? [ ],
  before ? [ ],
  serviceConfig ? { },
}:
{
  wantedBy = [ "multi-user.target" ];
  wants = [ "network-online.target" ];
  after = [ "network-online.target" ] ++ after;
  inherit before;
  # A server that stopped being restarted is an outage that waits for a person.
  startLimitIntervalSec = 0;
  serviceConfig =
    import ./sandbox.nix
    // {
      Type = "notify";
      User = user;
      Group = user;
      ExecStart = execStart;
      LoadCredential = lib.mapAttrsToList (name: file: "${name}:${file}") credentials;
      Restart = "always";
      RestartSec = "200ms";
      RestartSteps = 6;
      RestartMaxDelaySec = "5s";
      WatchdogSec = "30s";
      # The programs finish requests for 10 s (their shutdown_timeout); past twice that something hangs.
      TimeoutStopSec = "20s";
    }
    // serviceConfig;
}
