# What the first node's programs are told in the examples beside the test cluster (example/*.nix), as data: no machine is made from
# these, but the programs read them in the tests (tests/snapshots.rs).
{
  nixpkgs,
  system ? "x86_64-linux",
}:
let
  lib = import "${toString nixpkgs}/lib";
  example =
    file:
    let
      evaluated = import "${toString nixpkgs}/nixos/lib/eval-config.nix" {
        inherit system;
        modules = [
          ../.
          ../example/cluster.nix
          ../example/machine.nix
          file
          { networking.hostName = "node1"; }
        ];
      };
    in
    builtins.seq evaluated.config.system.build.toplevel.drvPath {
      "balancer.json" = evaluated.config.services.trivet.balancer.settings;
      "cluster.json" = evaluated._module.args.trivet.file;
    }
    // lib.optionalAttrs evaluated.config.services.trivet.backup.enable {
      "backup.json" = evaluated.config.services.trivet.backup.settings;
      "keeper.json" = evaluated.config.services.trivet.keeper.settings;
    };
in
lib.mapAttrs (_: example) {
  sites = ../example/sites.nix;
  backup = ../example/backup.nix;
}
