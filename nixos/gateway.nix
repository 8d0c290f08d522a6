# The database gateway: the balancer in TCP mode, on every app node, so that an app sees two fixed local addresses. A unit of
# its own: it must live where no balancer runs, and must not die with one.
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
  unit = "trivet-gateway";
  file = settings.generate "gateway.json" cfg.gateway.settings;
  inherit (cfg.gateway.settings) database;
in
{
  options.services.trivet.gateway.settings = settings.option "trivet-balancer as the database gateway";

  config = lib.mkIf (cfg.enable && trivet.has "app") {
    services.trivet.gateway.settings = settings.defaults {
      node = trivet.self.name;
      runtime_directory = "/run/${unit}";
      domain = cfg.cluster.domain;
      metrics.listen = trivet.at ports.gatewayMetrics trivet.self;
      control = trivet.control unit ports.gatewayControl;
      database = {
        write_listen = [ (trivet.local ports.databaseWrite) ];
        read_listen = [ (trivet.local ports.databaseRead) ];
        members = map (n: {
          inherit (n) name;
          address = trivet.at ports.mysql n;
          keeper = trivet.at ports.keeper n;
        }) trivet.databases;
        tls = trivet.nodeTls unit;
      };
    };

    services.trivet.generated = [
      {
        program = "trivet-balancer";
        inherit file;
      }
    ];
    services.trivet.users = [ unit ];
    environment.etc."trivet/gateway.json".source = file;

    systemd.services.${unit} = service {
      user = unit;
      execStart = "${cfg.package}/bin/trivet-balancer --config ${file}";
      takesOver = true;
      credentials = trivet.nodeCredentials;
      after = [ "${unit}.socket" ];
    } // {
      description = "Trivet database gateway";
      # Not `requires`: where a socket cannot be had for a moment, the gateway binds for itself, and tries again.
      wants = [
        "network-online.target"
        "${unit}.socket"
      ];
      partOf = [ "${unit}.socket" ];
    };

    # systemd holds the sockets: whoever connects while the gateway restarts waits in the kernel's queue, and is refused by nobody.
    # To stop the gateway for good, stop this unit, which takes the service along.
    systemd.sockets.${unit} = {
      description = "Trivet database gateway's sockets";
      wantedBy = [ "sockets.target" ];
      listenStreams = database.write_listen ++ (database.read_listen or [ ]);
      socketConfig = {
        Backlog = 4096;
        # A gateway that cannot start must not take the sockets with it: they are what lets it come back unnoticed. It is not
        # started more than five times a second, either.
        TriggerLimitIntervalSec = 0;
        PollLimitIntervalSec = "1s";
        PollLimitBurst = 5;
        # An address that comes later than the sockets.
        FreeBind = true;
        BindIPv6Only = "both";
      };
    };
  };
}
