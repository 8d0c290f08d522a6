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
  service = import ./service.nix { inherit lib; };
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
      # After, and so stopped before it. Not bound to it: while MySQL is down the keeper is there to say so.
      after = [ "mysql.service" ];
      serviceConfig.StateDirectory = unit;
    } // { description = "Trivet keeper of the database group"; };
  };
}
