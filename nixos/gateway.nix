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
  service = import ./service.nix { inherit lib; };
  unit = "trivet-gateway";
  file = settings.generate "gateway.json" cfg.gateway.settings;
in
{
  options.services.trivet.gateway.settings = settings.option "trivet-balancer as the database gateway";

  config = lib.mkIf (cfg.enable && trivet.has "app") {
    services.trivet.gateway.settings = settings.defaults {
      node = trivet.self.name;
      domain = cfg.cluster.domain;
      metrics.listen = trivet.at ports.gatewayMetrics trivet.self;
      database = {
        write_listen = [ (trivet.local ports.databaseWrite) ];
        read_listen = [ (trivet.local ports.databaseRead) ];
        members = map (n: {
          inherit (n) name;
          address = trivet.at ports.mysql n;
          keeper = trivet.at ports.keeper n;
        }) trivet.databases;
        tls = trivet.nodeTls unit;
        health = {
          interval = "150ms";
          timeout = "300ms";
          rise = 1;
          fall = 3;
        };
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
      credentials = trivet.nodeCredentials;
      serviceConfig.LimitNOFILE = 65536; # two per database connection
    } // { description = "Trivet database gateway"; };
  };
}
