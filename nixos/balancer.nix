# The balancer of a node with that role: TLS, HTTP, health checks and retries over the web tiers of all app nodes.
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
  unit = "trivet-balancer";
  file = settings.generate "balancer.json" cfg.balancer.settings;
in
{
  options.services.trivet.balancer.settings = settings.option "trivet-balancer";

  config = lib.mkIf (cfg.enable && trivet.has "balancer") {
    services.trivet.balancer.settings = settings.defaults {
      node = trivet.self.name;
      domain = cfg.cluster.domain;
      virtual_addresses = cfg.cluster.virtualAddresses;
      metrics.listen = trivet.at ports.balancerMetrics trivet.self;
      local_check.listen = trivet.local ports.localCheck;
      http.listen = [ "[::]:${toString ports.http}" ];
      https = {
        listen = [ "[::]:${toString ports.https}" ];
        certificate = trivet.credential unit "site.pem";
        key = trivet.credential unit "site.key";
        server_names = [ cfg.cluster.domain ];
      };
      web = {
        backends = map (n: {
          inherit (n) name;
          address = trivet.at ports.web n;
        }) trivet.apps;
        tls = trivet.nodeTls unit;
        health = {
          path = "/healthz";
          interval = "500ms";
          timeout = "400ms";
          rise = 2;
          fall = 2;
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
    environment.etc."trivet/balancer.json".source = file;

    systemd.services.${unit} = service {
      user = unit;
      execStart = "${cfg.package}/bin/trivet-balancer --config ${file}";
      credentials = trivet.nodeCredentials // {
        "site.pem" = trivet.secret "site.pem";
        "site.key" = trivet.secret "site.key";
      };
      serviceConfig = {
        # A renewed certificate without a restart; systemd before 261 hands over no new credentials, and needs one.
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        RefreshOnReload = "credentials";
        # Ports 80 and 443. A capability given to a user of its own user namespace would not open them.
        AmbientCapabilities = [ "CAP_NET_BIND_SERVICE" ];
        CapabilityBoundingSet = [ "CAP_NET_BIND_SERVICE" ];
        PrivateUsers = false;
        # Netlink: /status tells which virtual addresses this node holds.
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
          "AF_NETLINK"
        ];
        LimitNOFILE = 65536; # two per proxied connection, 10,000 connections
      };
    } // { description = "Trivet balancer"; };
  };
}
