# Default drop, and what each role lets in: exactly the table in docs/nixos.md. Outgoing traffic is free.
{
  config,
  lib,
  trivet,
  ...
}:
let
  cfg = config.services.trivet;
  inherit (trivet) ports has;

  set = list: "{ ${lib.concatMapStringsSep ", " toString list} }";
  # A rule for connections from `sources`; none when nobody is allowed.
  accept =
    comment: sources: match:
    lib.optional (sources != [ ]) ''ip saddr ${set sources} ${match} accept comment "${comment}"'';
  from = trivet.addresses;

  rules =
    # Everyone
    lib.optionals (has "balancer") [
      ''tcp dport ${set [ ports.http ports.https ]} accept comment "the site, for everyone"''
    ]
    # Nodes
    ++ lib.optionals (has "balancer") (
      # By number: not every system knows VRRP by name.
      accept "VRRP, from the other balancers" (from (trivet.others trivet.balancers)) "ip protocol 112"
    )
    ++ lib.optionals (has "balancer") (
      accept "operators' commands, mutual TLS" (from trivet.nodes) "tcp dport ${toString ports.balancerControl}"
    )
    ++ lib.optionals (has "app") (
      accept "operators' commands, mutual TLS" (from trivet.nodes) "tcp dport ${toString ports.gatewayControl}"
    )
    ++ lib.optionals (has "app") (
      accept "web tier, mutual TLS" (from trivet.nodes) "tcp dport ${toString ports.web}"
    )
    ++ lib.optionals (has "database") (
      accept "MySQL" (from trivet.nodes) "tcp dport ${toString ports.mysql}"
      ++ accept "keeper" (from trivet.nodes) "tcp dport ${toString ports.keeper}"
    )
    ++ accept "metrics" (from trivet.monitors) "tcp dport ${
      set (
        [ ports.nodeExporter ]
        ++ lib.optional (has "balancer") ports.balancerMetrics
        ++ lib.optionals (has "app") [
          ports.webMetrics
          ports.appMetrics
          ports.gatewayMetrics
        ]
        ++ lib.optionals (has "database") [
          ports.keeperMetrics
          ports.mysqldExporter
        ]
        ++ lib.optional (has "database" && cfg.backup.enable) ports.backupMetrics
      )
    }"
    # Administrators
    ++ accept "SSH" cfg.cluster.administrators "tcp dport ${toString ports.ssh}"
    ++ lib.optionals (has "monitoring") (
      accept "dashboards" cfg.cluster.administrators "tcp dport ${
        set [
          ports.prometheus
          ports.alertmanager
          ports.grafana
        ]
      }"
    );
  # Rules stay in their chain.
  balanced =
    text:
    let
      # Below zero it stays there.
      step = depth: c: if depth < 0 || c == "}" then depth - 1 else if c == "{" then depth + 1 else depth;
    in
    lib.foldl' step 0 (lib.stringToCharacters text) == 0;
  extra = lib.filter (rule: rule != "") (lib.splitString "\n" cfg.firewall.extraInputRules);
in
{
  options.services.trivet.firewall.extraInputRules = lib.mkOption {
    type = lib.types.lines;
    default = "";
    example = "ip saddr 192.0.2.7 tcp dport 9100 accept";
    description = "More nftables rules of the input chain, after ours and before the drop.";
  };

  config = lib.mkIf cfg.enable {
    # One table says all of it. NixOS' own firewall opens what any module asks for, such as SSH to everyone.
    networking.firewall.enable = lib.mkDefault false;
    networking.nftables.enable = lib.mkDefault true;
    assertions = [
      {
        assertion = !config.networking.firewall.enable;
        message =
          "trivet: networking.firewall is on, which opens what any module asks for (SSH to everyone, for one), beside Trivet's own rules; "
          + "leave networking.firewall.enable unset, and put more rules into services.trivet.firewall.extraInputRules";
      }
      {
        assertion = config.networking.nftables.enable;
        message =
          "trivet: networking.nftables.enable is false, and without it the node has no firewall; leave it unset";
      }
      {
        assertion = balanced cfg.firewall.extraInputRules;
        message =
          "trivet: services.trivet.firewall.extraInputRules closes a brace that it did not open, or leaves one open, and would end the "
          + "input chain there; one rule a line, such as: ip saddr 192.0.2.7 tcp dport 9100 accept";
      }
    ];
    networking.nftables.tables.trivet = {
      family = "inet";
      content = ''

        chain input {
          type filter hook input priority filter; policy drop;
          iifname "lo" accept
          ct state vmap { established : accept, related : accept, invalid : drop }
          icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } accept
          icmpv6 type { echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
        ${lib.concatMapStringsSep "\n" (rule: "  " + rule) (rules ++ extra)}
          counter comment "dropped"
        }
        chain forward {
          type filter hook forward priority filter; policy drop;
        }
        chain output {
          type filter hook output priority filter; policy accept;
        }
      '';
    };
  };
}
