{
  description = "Trivet: three servers that carry one website and keep carrying it when any one of them dies";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forSystems =
        f:
        lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
          system:
          f {
            inherit system;
            pkgs = nixpkgs.legacyPackages.${system};
          }
        );
      node =
        name:
        lib.nixosSystem {
          system = "x86_64-linux";
          modules = [
            self.nixosModules.default
            ./nixos/example/cluster.nix
            ./nixos/example/machine.nix
            { networking.hostName = name; }
          ];
        };
    in
    {
      nixosModules.default = ./nixos;

      nixosConfigurations = lib.genAttrs [ "node1" "node2" "node3" ] node;

      packages = forSystems (
        { system, pkgs }:
        {
          trivet = pkgs.callPackage ./nixos/package.nix { };
          default = self.packages.${system}.trivet;
        }
      );

      apps = forSystems (
        { pkgs, ... }:
        {
          render = {
            type = "app";
            program = lib.getExe (pkgs.callPackage ./nixos/render { inherit nixpkgs; });
            meta.description = "Write vm-tests/snapshots/ (with --check: compare)";
          };
        }
      );

      # Every scenario as a NixOS VM test, and what the modules say of themselves.
      checks = forSystems (
        { system, pkgs }:
        import ./vm-tests { inherit pkgs; } // import ./nixos/checks { inherit self nixpkgs pkgs system; }
      );

      devShells = forSystems (
        { system, pkgs }:
        {
          default = pkgs.mkShell {
            inputsFrom = [ self.packages.${system}.trivet ];
            packages = [
              pkgs.cargo
              pkgs.clippy
              pkgs.rustfmt
              pkgs.rust-analyzer
              pkgs.python3
            ];
          };
        }
      );

      formatter = forSystems ({ pkgs, ... }: pkgs.nixfmt-tree);
    };
}
