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
  service = import ./service.nix { inherit lib pkgs; };
  unit = "trivet-balancer";
  file = settings.generate "balancer.json" cfg.balancer.settings;
  # All addresses of the machine. Without IPv6 in its kernel the first kind cannot be bound.
  everywhere = port: "${if config.networking.enableIPv6 then "[::]" else "0.0.0.0"}:${toString port}";
  onNode = import ./on-node.nix { inherit lib; };
  certificates = lib.imap1 (number: files: files // { name = "certificate-${toString number}"; }) cfg.balancer.certificates;
in
{
  options.services.trivet.balancer = {
    settings = settings.option "trivet-balancer";
    certificates = lib.mkOption {
      type = lib.types.listOf onNode.certificate;
      default = [ ];
      example = lib.literalExpression ''
        [ { certificate = "/var/lib/acme/shop.foobar.com/fullchain.pem"; key = "/var/lib/acme/shop.foobar.com/key.pem"; } ]
      '';
      description = ''
        Certificates beside `site.pem` and `site.key`, for other names or with another kind of key. The names in a
        certificate decide which clients see it; `site.pem` is for the rest.
      '';
    };
    files = lib.mkOption {
      type = lib.types.attrsOf onNode.type;
      internal = true;
      default = { };
      description = "Files of sites and pools on the node, by the names under which the balancer has them.";
    };
    tls.profile = lib.mkOption {
      type = lib.types.enum [
        "intermediate"
        "modern"
      ];
      default = "intermediate";
      description = "`intermediate` is TLS 1.2 and 1.3, `modern` TLS 1.3 alone.";
    };
    tls.ticketSecret = lib.mkOption {
      type = lib.types.nullOr onNode.type;
      default = "${cfg.secretsDirectory}/ticket.secret";
      defaultText = lib.literalExpression ''"''${config.services.trivet.secretsDirectory}/ticket.secret"'';
      description = ''
        File on the node with the secret from which the keys of TLS session tickets are derived, the same on every balancer:
        a visitor's session then survives a failover. `null` gives each balancer keys of its own.
      '';
    };
  };

  config = lib.mkIf (cfg.enable && trivet.has "balancer") {
    services.trivet.balancer.settings = settings.defaults {
      node = trivet.self.name;
      runtime_directory = "/run/${unit}";
      domain = cfg.cluster.domain;
      virtual_addresses = cfg.cluster.virtualAddresses;
      metrics.listen = trivet.at ports.balancerMetrics trivet.self;
      local_check.listen = trivet.local ports.localCheck;
      control = trivet.control unit ports.balancerControl;
      http.listen = [ (everywhere ports.http) ];
      https = {
        listen = [ (everywhere ports.https) ];
        certificate = trivet.renewed unit "site.pem";
        key = trivet.renewed unit "site.key";
        server_names = [ cfg.cluster.domain ];
        certificates = map (c: {
          certificate = trivet.renewed unit "${c.name}.pem";
          key = trivet.renewed unit "${c.name}.key";
        }) certificates;
        tls = {
          inherit (cfg.balancer.tls) profile;
        }
        // lib.optionalAttrs (cfg.balancer.tls.ticketSecret != null) {
          ticket_secret = trivet.renewed unit "ticket.secret";
        };
      };
      web = {
        backends = map (n: {
          inherit (n) name;
          address = trivet.at ports.web n;
        }) trivet.apps;
        tls = trivet.nodeTls unit;
        # The web tier reads, or ends the connection at, every body.
        trusted_framing = true;
      };
    };

    assertions = [
      {
        assertion = cfg.balancer.tls.ticketSecret == null || !onNode.inStore cfg.balancer.tls.ticketSecret;
        message =
          "trivet: services.trivet.balancer.tls.ticketSecret is in the store (${toString cfg.balancer.tls.ticketSecret}), where "
          + "every user can read it; `trivet secrets init` makes ticket.secret, and the secrets' folder is the place for it";
      }
    ];

    services.trivet.balancer.files = {
      "site.pem" = trivet.secret "site.pem";
      "site.key" = trivet.secret "site.key";
    }
    // lib.optionalAttrs (cfg.balancer.tls.ticketSecret != null) { "ticket.secret" = cfg.balancer.tls.ticketSecret; }
    // lib.listToAttrs (
      lib.concatMap (c: [
        (lib.nameValuePair "${c.name}.pem" c.certificate)
        (lib.nameValuePair "${c.name}.key" c.key)
      ]) certificates
    );

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
      takesOver = true;
      credentials = trivet.nodeCredentials;
      renewed = cfg.balancer.files;
      serviceConfig = {
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
      };
    } // { description = "Trivet balancer"; };
  };
}
