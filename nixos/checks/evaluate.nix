# The modules, evaluated for questions about them.
{
  lib,
  nixpkgs,
  system,
}:
let
  example = ../example/cluster.nix;
in
{
  # A whole NixOS system: the example cluster's node `name`, with `extra` on top.
  node =
    name: extra:
    nixpkgs.lib.nixosSystem {
      modules = [
        ../.
        example
        ../example/machine.nix
        extra
        {
          nixpkgs.hostPlatform = system;
          networking.hostName = name;
        }
      ];
    };

  # What the modules say of the example cluster changed by `change`; quick, since no NixOS is evaluated for it.
  cluster =
    change:
    let
      evaluated = lib.evalModules {
        modules = [
          ../cluster.nix
          ../secrets.nix
          example
          change
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
      refusals = map (a: a.message) (lib.filter (a: !a.assertion) evaluated.config.assertions);
      inherit (evaluated.config) warnings;
    };
}
