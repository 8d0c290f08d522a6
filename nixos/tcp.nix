# Services of other protocols before the balancers (docs/tcp.md): their options, the firewall's rules for their ports. Every key that is
# no option goes to the program as it stands, which checks it when the system is built.
{
  config,
  lib,
  pkgs,
  trivet,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.trivet;
  settings = import ./settings.nix { inherit lib pkgs; };
  keys = types.attrsOf (pkgs.formats.json { }).type;
  everywhere = port: "${if config.networking.enableIPv6 then "[::]" else "0.0.0.0"}:${toString port}";

  byName = lib.mapAttrsToList (name: backend: { inherit name; } // (if builtins.isString backend then { address = backend; } else backend));
  poolOptions = {
    freeformType = keys;
    options.backends = mkOption {
      type = types.coercedTo (types.attrsOf (types.either types.str keys)) byName (types.listOf keys);
      default = [ ]; # refused with words (tcp-problems.nix)
      example = lib.literalExpression ''{ mail1 = "10.77.0.21:25"; mail2 = { address = "10.77.0.22:25"; backup = true; }; }'';
      description = "Its back ends: addresses by name, or attribute sets by name or in a list, for further keys.";
    };
  };
  pool = types.submodule poolOptions;

  serviceOptions = {
    freeformType = keys;
    options = {
      port = mkOption {
        type = types.nullOr types.port;
        default = null;
        example = 25;
        description = "The port on all addresses of the balancers, the virtual ones included.";
      };
      listen = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "10.77.0.50:25" ];
        description = "Addresses and ports in its place.";
      };
      clients = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "10.0.0.0/8" ];
        description = "Networks that are served, and let through the firewall; everyone when empty.";
      };
      pool = mkOption {
        type = types.nullOr pool;
        default = null;
        example = lib.literalExpression ''{ backends.mail1 = "10.77.0.21:25"; }'';
        description = "Where connections go; with `sni`, those for which it says nothing, which are refused without this.";
      };
      sni = mkOption {
        type = types.listOf (
          types.submodule {
            options = {
              names = mkOption {
                type = types.listOf types.str;
                example = [ "shop.foobar.com" "*.shops.foobar.com" ];
                description = "Names that clients of TLS ask for.";
              };
              pool = mkOption {
                type = pool;
                description = "Where their connections go, still encrypted.";
              };
            };
          }
        );
        default = [ ];
        description = "Where connections of TLS go by the name that is asked for.";
      };
    };
  };

  given = lib.filterAttrs (_: value: value != null && value != [ ] && value != { });
  listen = s: lib.optional (s.port != null) (everywhere s.port) ++ s.listen;
  service = s: given (removeAttrs s [ "port" ] // { listen = listen s; });

  # The firewall. Behind proxies it is they who connect, whoever their clients are.
  isLocal = address: lib.hasPrefix "127." address || lib.hasPrefix "[::1]:" address;
  port = address: lib.last (lib.splitString ":" address);
  sources = s: if s ? proxy_protocol then s.proxy_protocol.from or [ ] else s.clients;
  set = list: "{ ${lib.concatStringsSep ", " list} }";
  rulesOf =
    name: s:
    let
      ports = lib.unique (map port (lib.filter (address: !isLocal address) (listen s)));
      to = ''tcp dport ${set ports} accept comment "tcp ${name}"'';
      six = lib.partition (lib.hasInfix ":") (sources s);
      from = family: networks: lib.optional (networks != [ ]) "${family} saddr ${set networks} ${to}";
    in
    if ports == [ ] then
      [ ]
    else if sources s == [ ] then
      [ to ]
    else
      from "ip" six.wrong ++ from "ip6" six.right;
in
{
  options.services.trivet.tcp = mkOption {
    type = types.attrsOf (types.submodule serviceOptions);
    default = { };
    example = lib.literalExpression ''
      {
        mail = {
          port = 25;
          pool.backends = { mail1 = "10.77.0.21:25"; mail2 = "10.77.0.22:25"; };
          pool.send_proxy_protocol = "v2";
        };
      }
    '';
    description = ''
      Services of other protocols than HTTP that the balancers serve, by their names in logs and metrics; their ports are opened. Keys as in
      `docs/tcp.md`.
    '';
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = map (message: {
          assertion = false;
          message = "trivet: ${message}";
        }) (import ./tcp-problems.nix { inherit lib cfg listen; inherit (trivet) ports; });
      }
      (lib.mkIf (trivet.has "balancer") {
        services.trivet.balancer.settings = settings.defaults (given { tcp = lib.mapAttrs (_: service) cfg.tcp; });
        services.trivet.firewall.extraInputRules = lib.mkIf (cfg.tcp != { }) (
          lib.concatStringsSep "\n" (lib.concatLists (lib.mapAttrsToList rulesOf cfg.tcp))
        );
      })
    ]
  );
}
