# What every node has: the programs, the cluster file, the names of the other nodes, a user per service.
{
  config,
  lib,
  pkgs,
  trivet,
  ...
}:
let
  cfg = config.services.trivet;
  json = pkgs.formats.json { };
in
{
  options.services.trivet = {
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "trivet, built from this flake";
      description = "The package with Trivet's programs.";
    };
    journalSize = lib.mkOption {
      type = lib.types.strMatching "[0-9]+[KMGT]?";
      default = "2G";
      description = ''
        How much of the disk the system's journal may take; the oldest entries go first. Trivet's programs log every request, and
        journald suppresses none of their lines: 2G hold some two million requests.
      '';
    };
    # Every generated program configuration, by the program that reads it: checked when the system is built.
    generated = lib.mkOption {
      type = lib.types.listOf (
        lib.types.submodule {
          options = {
            program = lib.mkOption { type = lib.types.str; };
            file = lib.mkOption { type = lib.types.package; };
          };
        }
      );
      default = [ ];
      internal = true;
      visible = false;
    };
    checks = lib.mkOption {
      type = with lib.types; attrsOf package;
      default = { };
      internal = true;
      visible = false;
      description = "What must hold before a system of this configuration is worth having; built along with it.";
    };
    users = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      internal = true;
      visible = false;
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."trivet/cluster.json".source = json.generate "cluster.json" trivet.file;

    # Nodes find one another without a name server.
    networking.hosts = lib.listToAttrs (map (n: lib.nameValuePair n.address [ n.name ]) trivet.nodes);

    # First, so that a machine's own settings have the last word.
    services.journald.extraConfig = lib.mkBefore "SystemMaxUse=${cfg.journalSize}";

    users.users = lib.genAttrs cfg.users (name: {
      isSystemUser = true;
      group = name;
      description = "Trivet's ${lib.removePrefix "trivet-" name}";
    });
    users.groups = lib.genAttrs cfg.users (_: { });

    # The real programs read their configuration while the system is built: a bad value fails the build, not the site.
    services.trivet.checks.configuration = pkgs.runCommand "trivet-configuration-check" { } (
      lib.concatMapStrings ({ program, file }: "${cfg.package}/bin/${program} --config ${file} --check\n") cfg.generated
      + "touch $out\n"
    );
    system.checks = lib.attrValues cfg.checks;
  };
}
