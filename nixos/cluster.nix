# The cluster as data. Everything else is derived from it; its mistakes are refused here, in plain words.
{
  config,
  lib,
  options,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.trivet;

  nodeOptions =
    { name, ... }:
    {
      options = {
        name = mkOption {
          type = types.str;
          default = name;
          readOnly = true;
          description = "The node's name, the attribute's own.";
        };
        address = mkOption {
          type = types.str;
          example = "10.77.0.11";
          description = "IPv4 address under which the other nodes reach this one.";
        };
        roles = mkOption {
          type = types.listOf types.str;
          default = import ./roles.nix;
          example = [ "database" ];
          description = ''
            What the node does: `balancer` (may hold the virtual address), `app` (web tier, application and database
            gateway), `database` (MySQL and its keeper), `monitoring` (Prometheus and Alertmanager). All of them by default.
          '';
        };
        interface = mkOption {
          type = types.str;
          default = "eth0";
          description = "Network interface that carries `address`, and the virtual addresses when the node holds them.";
        };
      };
    };
in
{
  options.services.trivet = {
    enable = lib.mkEnableOption "this machine as a node of a Trivet cluster";

    node = mkOption {
      type = types.str;
      default = config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      description = "Which node of the cluster this machine is.";
    };

    cluster = {
      name = mkOption {
        type = types.str;
        default = "trivet";
        description = "The cluster's name, for people.";
      };
      domain = mkOption {
        type = types.str;
        example = "www.foobar.com";
        description = "The site's name, as it stands in the address bar.";
      };
      aliases = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "foobar.com" ];
        description = "Further names of the site, which are redirected to `domain`: the apex beside www, for one.";
      };
      virtualAddresses = mkOption {
        type = types.listOf types.str;
        example = [ "10.77.0.50" ];
        description = "IPv4 addresses that always belong to one living balancer. The domain's DNS records point to them.";
      };
      virtualRouterId = mkOption {
        type = types.ints.between 1 255;
        default = 51;
        description = "VRRP router id; must differ from that of any other VRRP user in the same network.";
      };
      groupName = mkOption {
        type = types.str;
        default = ""; # refused with words (problems.nix)
        example = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";
        description = "Name of the MySQL replication group, a UUID (`uuidgen`) that no other cluster has. Never change it.";
      };
      administrators = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "10.77.0.200/32" ];
        description = "IPv4 addresses or networks that reach SSH and the dashboards.";
      };
      nodes = mkOption {
        type = types.attrsOf (types.submodule nodeOptions);
        example = lib.literalExpression ''{ node1.address = "10.77.0.11"; }'';
        description = "The machines of the cluster.";
      };
    };
  };

  config = lib.mkIf cfg.enable {
    _module.args.trivet = import ./derive.nix {
      inherit lib;
      inherit (cfg) cluster node secretsDirectory;
      sites = cfg.sites or { }; # not where the cluster is evaluated alone
    };
    assertions = map (message: {
      assertion = false;
      message = "trivet: ${message}";
    }) (
      import ./problems.nix {
        inherit lib cfg;
        secretsAsPath = lib.any builtins.isPath options.services.trivet.secretsDirectory.definitions;
      }
    );
    warnings = map (message: "trivet: ${message}") (import ./weaknesses.nix { inherit lib cfg; });
  };
}
