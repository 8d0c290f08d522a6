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
  startLimitIntervalSec = 0; # restart.nix
  serviceConfig =
    import ./sandbox.nix
    // import ./restart.nix { first = "200ms"; }
    // {
      Type = "notify";
      User = user;
      Group = user;
      ExecStart = execStart;
      LoadCredential = lib.mapAttrsToList (name: file: "${name}:${file}") credentials;
      # A line for each request is more than journald's usual allowance, and dropped lines are found by nobody when they are
      # wanted. What all of them take of the disk is bounded in common.nix.
      LogRateLimitIntervalSec = 0;
      WatchdogSec = "30s";
      # The programs finish requests for 10 s (their shutdown_timeout); past twice that something hangs.
      TimeoutStopSec = "20s";
    }
    // serviceConfig;
}
