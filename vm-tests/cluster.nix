# The example cluster as the tests need it before any machine exists: its nodes, and its cluster file.
{ lib }:
let
  evaluated = lib.evalModules {
    modules = [
      ../nixos/cluster.nix
      ../nixos/secrets.nix
      ../nixos/example/cluster.nix
      {
        freeformType = lib.types.attrs;
        options.assertions = lib.mkOption { type = lib.types.listOf lib.types.attrs; };
        options.warnings = lib.mkOption { type = lib.types.listOf lib.types.str; };
        config.networking.hostName = "node1";
      }
    ];
  };
in
{
  inherit (evaluated.config.services.trivet.cluster) nodes;
  inherit (evaluated._module.args.trivet) file;
}
