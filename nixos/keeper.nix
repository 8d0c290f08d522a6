# The keeper beside MySQL: starts the first group, joins, rejoins, re-forms after a complete outage, and tells the gateways
# the truth about the local member.
{
  config,
  lib,
  pkgs,
  trivet,
  ...
}:
let
  cfg = config.services.trivet;
  inherit (trivet) ports;
  settings = import ./settings.nix { inherit lib pkgs; };
  service = import ./service.nix { inherit lib pkgs; };
  unit = "trivet-keeper";
  file = settings.generate "keeper.json" cfg.keeper.settings;
in
{
  options.services.trivet.keeper.settings = settings.option "trivet-keeper";

  config = lib.mkIf (cfg.enable && trivet.has "database") {
    services.trivet.keeper.settings = settings.defaults {
      node = trivet.self.name;
      group_name = cfg.cluster.groupName;
      listen = trivet.at ports.keeper trivet.self;
      metrics.listen = trivet.at ports.keeperMetrics trivet.self;
      tls = trivet.nodeTls unit;
      mysql = {
        socket = config.services.mysql.settings.mysqld.socket;
        data_directory = config.services.mysql.dataDir;
        user = unit; # by auth_socket: the user of this unit, without a password
        replication_user = "trivet_replication";
        replication_password_file = trivet.credential unit "replication-password";
        app_user = "trivet_app";
        app_password_file = trivet.credential unit "app-password";
        app_database = "trivet";
        exporter_user = "trivet_exporter";
        exporter_unix_user = "mysqld-exporter"; # monitoring.nix
      };
      members = map (n: {
        inherit (n) name;
        mysql = trivet.at ports.mysql n;
        keeper = trivet.at ports.keeper n;
      }) trivet.databases;
    };

    services.trivet.generated = [
      {
        program = "trivet-keeper";
        inherit file;
      }
    ];
    services.trivet.users = [ unit ];
    environment.etc."trivet/keeper.json".source = file;

    systemd.services.${unit} = service {
      user = unit;
      execStart = "${cfg.package}/bin/trivet-keeper --config ${file}";
      credentials =
        trivet.nodeCredentials
        // lib.genAttrs [
          "replication-password"
          "app-password"
        ] trivet.secret;
      # Before, and so stopped after it: at a shutdown the keeper is there to hand the primary role over (database.nix). Not
      # bound to it: while MySQL is down the keeper is there to say so.
      before = [ "mysql.service" ];
      serviceConfig = {
        # Without the keeper of the primary nothing is written, so a frozen one is replaced within 5 s.
        WatchdogSec = "4s";
        StateDirectory = unit;
        # The control socket, for this node's root.
        RuntimeDirectory = unit;
        RuntimeDirectoryMode = "0700";
      };
    } // { description = "Trivet keeper of the database group"; };

    # Whatever stops mysqld in order (systemctl, a rebuild, a reboot) stops this first, and waits for it: the primary role moves
    # to another member while this one still works. A unit of its own, so that a new Trivet does not restart mysqld.
    systemd.services.trivet-handover = {
      description = "Hand-over of the primary role before MySQL stops";
      wantedBy = [ "mysql.service" ];
      partOf = [ "mysql.service" ];
      after = [ "mysql.service" ]; # started after it, stopped before it
      restartIfChanged = false; # a restart of this alone would move the role for nothing
      serviceConfig = import ./sandbox.nix // {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${pkgs.coreutils}/bin/true";
        # It is root, without any right of root but to open the keeper's socket, whose user is another.
        ExecStop = "-${cfg.package}/bin/trivet database prepare-stop --timeout 15s";
        TimeoutStopSec = "20s"; # no stop is blocked
        CapabilityBoundingSet = "CAP_DAC_OVERRIDE";
        PrivateUsers = false; # in a namespace of its own it would not be the root that the keeper knows
        RestrictAddressFamilies = "AF_UNIX";
      };
    };
  };
}
