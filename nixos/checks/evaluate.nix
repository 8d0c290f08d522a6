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

  # What the modules say is wrong with the example cluster changed by `change`; quick, since no NixOS is evaluated for it.
  problems =
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
            config.networking.hostName = "node1";
          }
        ];
      };
    in
    map (a: a.message) (lib.filter (a: !a.assertion) evaluated.config.assertions);
}
