# `checks` of the flake, beside the scenarios (vm-tests/default.nix). Those that ask the modules questions answer while they are
# evaluated, so that `nix flake check --no-build` asks them too.
{
  self,
  nixpkgs,
  pkgs,
  system,
}:
let
  inherit (pkgs) lib;
  evaluate = import ./evaluate.nix { inherit lib nixpkgs system; };
  # A list of failures becomes a check: none, and it can be built; any, and evaluation ends with them.
  expect =
    name: failures:
    if failures == [ ] then
      pkgs.runCommand "trivet-${name}" { } "touch $out"
    else
      throw "${name}:\n${lib.concatStringsSep "\n" failures}";
  node1 = (evaluate.node "node1" { }).config;
  withBackup = (evaluate.node "node1" ../example/backup.nix).config;
in
{
  bad-clusters = expect "bad-clusters" (import ./bad-clusters.nix { inherit lib evaluate; });
  bad-options = expect "bad-options" (import ./bad-options.nix { inherit lib evaluate; });
  machines = expect "machines" (import ./machines.nix { inherit lib evaluate; });
  more-members = expect "more-members" (import ./more-members.nix { inherit lib evaluate; });
  sites = expect "sites" (import ./sites.nix { inherit lib evaluate; });
  tcp = expect "tcp" (import ./tcp.nix { inherit lib evaluate; });
  split-roles = expect "split-roles" (import ./split-roles.nix { inherit lib evaluate; });

  # The nodes differ in names and addresses alone, so one of them speaks for all.
  inherit (node1.services.trivet.checks) configuration rules;
  # The example of several sites, read by the program.
  sites-configuration = (evaluate.node "node1" ../example/sites.nix).config.services.trivet.checks.configuration;
  # What only a cluster with backups has.
  backup-configuration = withBackup.services.trivet.checks.configuration;
  backup-rules = withBackup.services.trivet.checks.rules;
  alerts = pkgs.runCommand "trivet-alerts-check" { nativeBuildInputs = [ pkgs.prometheus.cli ]; } ''
    promtool test rules ${
      pkgs.writeText "alerts.json" (
        builtins.toJSON (
          import ./alerts.nix {
            inherit lib;
            rules = lib.head node1.services.prometheus.ruleFiles;
          }
        )
      )
    }
    touch $out
  '';
  # `nft --check` runs when the ruleset is built.
  nftables = lib.elemAt node1.systemd.services.nftables.serviceConfig.ExecStart 1;
  keepalived = pkgs.runCommand "trivet-keepalived-check" { nativeBuildInputs = [ pkgs.keepalived ]; } ''
    # A builder has neither the node's interface, nor the tracked files, nor the check's user.
    echo 1 > balancer
    echo 0 > holds
    sed --expression='s/^global_defs {/&\n  dynamic_interfaces/' \
        --expression="s|/run/trivet-failover/|$PWD/|" \
        --expression='s/user trivet-balancer trivet-balancer/user nobody/' \
        ${node1.environment.etc."keepalived/keepalived.conf".source} > keepalived.conf
    keepalived --config-test --use-file="$PWD/keepalived.conf"
    touch $out
  '';
  snapshots = pkgs.runCommand "trivet-snapshots-check" { nativeBuildInputs = [ pkgs.python3 ]; } ''
    python3 ${self}/nixos/render/digest.py
    touch $out
  '';
}
