# The unit of one Trivet program: readiness and watchdog over sd_notify, restarted for ever with growing pauses, sandboxed,
# its secrets handed over as credentials.
{ lib, pkgs }:
{
  user,
  execStart,
  takesOver ? false, # whether a new process takes over from the one that runs, in place of a restart (docs/reload.md)
  credentials ? { }, # name of the credential → file on the node
  renewed ? { }, # the same, where a reload renews them: systemd before 261 hands over no new credentials
  after ? [ ],
  before ? [ ],
  serviceConfig ? { },
}:
let
  files = "/run/${user}/files";
  # As root, who alone may read them; each appears whole.
  renew = pkgs.writeShellScript "${user}-files" (
    ''
      set -eu
      install -d -m 0700 -o ${user} -g ${user} ${files}
    ''
    + lib.concatStrings (
      lib.mapAttrsToList (name: file: ''
        install -m 0400 -o ${user} -g ${user} ${lib.escapeShellArg file} ${files}/.new
        mv -f ${files}/.new ${lib.escapeShellArg "${files}/${name}"}
      '') renewed
    )
  );
  renews = lib.optional (renewed != { }) "+${renew}";
in
lib.optionalAttrs takesOver {
  # A switch to another configuration, binary or sandbox has a new process take over.
  reloadIfChanged = true;
}
// {
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
    // lib.optionalAttrs (renewed != { }) { ExecStartPre = renews; }
    // lib.optionalAttrs takesOver {
      ExecReload = renews ++ [ "${execStart} --reload" ];
      RuntimeDirectory = user;
      # What operators have ordered.
      StateDirectory = user;
      StateDirectoryMode = "0700";
      # The new process says that it lives before it is the main one.
      NotifyAccess = "exec";
      RefreshOnReload = "credentials";
    }
    // serviceConfig;
}
