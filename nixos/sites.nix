# Which sites the balancers serve, from which pools, and what is done with some requests (docs/sites.md). The options are what
# other modules and the assertions need; every other key goes to the program as it stands, which checks it when the system is built.
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
  unit = "trivet-balancer";
  settings = import ./settings.nix { inherit lib pkgs; };
  onNode = import ./on-node.nix { inherit lib; };
  json = (pkgs.formats.json { }).type;
  keys = types.attrsOf json;

  routes = mkOption {
    type = types.listOf keys;
    default = [ ];
    example = lib.literalExpression ''[ { path_prefix = "/api"; pool = "api"; } { path_prefix = "/admin"; refuse = 403; } ]'';
    description = ''
      What is done with some of its requests, in order: the first route that is for a request counts. Keys as in `docs/sites.md`.
      `lib.mkBefore` and `lib.mkAfter` order those of several modules.
    '';
  };

  limits = mkOption {
    type = keys;
    default = { };
    example = lib.literalExpression ''{ max_body_size = "100 MB"; request_rate = { rate = 20; burst = 100; }; }'';
    description = ''
      What holds for its requests where their route says nothing else: sizes, time-outs, retries, the requests a second of one client.
      Keys as in `docs/sites.md`.
    '';
  };

  siteOptions = {
    freeformType = keys;
    options = {
      names = mkOption {
        type = types.listOf types.str;
        default = [ ]; # refused with words (site-problems.nix)
        example = [ "shop.foobar.com" ];
        description = "The names that it answers to. The first is the one that aliases are sent to.";
      };
      aliases = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "shop.example.net" ];
        description = "Further names, which are redirected to the first.";
      };
      certificates = mkOption {
        type = types.listOf onNode.certificate;
        default = [ ];
        example = lib.literalExpression ''
          [ { certificate = "/var/lib/acme/shop.foobar.com/fullchain.pem"; key = "/var/lib/acme/shop.foobar.com/key.pem"; } ]
        '';
        description = "Its certificates; several where one has another kind of key.";
      };
      useClusterCertificate = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether `site.pem` or one of `services.trivet.balancer.certificates` carries its names. The `site.pem` of
          `trivet secrets init` then does.
        '';
      };
      pool = mkOption {
        type = types.str;
        default = "web";
        description = "The pool that serves what no route is for; `web` is the web tiers of the cluster.";
      };
      inherit limits routes;
    };
  };

  backendOptions = {
    freeformType = keys;
    options = {
      name = mkOption {
        type = types.str;
        description = "Its name, in logs, metrics and, over TLS, in its certificate.";
      };
      address = mkOption {
        type = types.str;
        example = "10.77.0.21:8080";
        description = ''
          Where it listens: address and port, a name in DNS and a port (`app.internal:8080`), each of whose addresses is a back end, or a
          unix socket (`unix:/run/app/app.sock`), to which the balancer's user must have access:
          `systemd.services.trivet-balancer.serviceConfig.SupplementaryGroups`.
        '';
      };
    };
  };
  byName = lib.mapAttrsToList (name: backend: { inherit name; } // (if builtins.isString backend then { address = backend; } else backend));

  tlsOptions.options =
    lib.mapAttrs
      (
        _: description:
        mkOption {
          type = onNode.type;
          inherit description;
        }
      )
      {
        ca = "File on the node with the authorities to which the back ends' certificates must lead (PEM).";
        certificate = "File on the node with the balancer's certificate (PEM).";
        key = "File on the node with its private key (PEM).";
      };

  poolOptions = {
    freeformType = keys;
    options = {
      backends = mkOption {
        type = types.coercedTo (types.attrsOf (types.either types.str keys)) byName (types.listOf (types.submodule backendOptions));
        default = [ ]; # refused with words (site-problems.nix)
        example = lib.literalExpression ''{ api1 = "10.77.0.21:8080"; api2 = "10.77.0.22:8080"; }'';
        description = ''
          Its back ends: addresses by name, or attribute sets by name or in a list, for further keys. The firewall of a node lets nobody
          in at their ports: `services.trivet.firewall.extraInputRules`.
        '';
      };
      tls = mkOption {
        type = types.nullOr (types.either (types.enum [ "cluster" ]) (types.submodule tlsOptions));
        default = null;
        example = "cluster";
        description = ''
          Mutual TLS to the back ends: `"cluster"` with the node's certificate and the cluster's authority, or with files of your own.
          `null` is plain text.
        '';
      };
    };
  };

  # Files of sites and pools: a name, under which alerts show a certificate, and the file on the node.
  numbered = number: if number == 1 then "" else "+${toString number}"; # no site's name has that sign
  siteFiles = lib.concatLists (
    lib.mapAttrsToList (
      site: s:
      lib.imap1 (number: files: {
        inherit site;
        name = "site-${site}${numbered number}";
        inherit (files) certificate key;
      }) s.certificates
    ) cfg.sites
  );
  ownTls = lib.filterAttrs (_: pool: builtins.isAttrs pool.tls) cfg.pools;
  poolFile = pool: key: "pool-${pool}-${key}";
  files = lib.listToAttrs (
    lib.concatMap (c: [
      (lib.nameValuePair "${c.name}.pem" c.certificate)
      (lib.nameValuePair "${c.name}.key" c.key)
    ]) siteFiles
    ++ lib.concatLists (
      lib.mapAttrsToList (name: pool: lib.mapAttrsToList (key: file: lib.nameValuePair (poolFile name key) file) pool.tls) ownTls
    )
  );

  given = lib.filterAttrs (_: value: value != null && value != [ ] && value != { });
  site =
    name: s:
    given (
      removeAttrs s [ "useClusterCertificate" ]
      // {
        certificates = map (c: {
          certificate = trivet.renewed unit "${c.name}.pem";
          key = trivet.renewed unit "${c.name}.key";
        }) (lib.filter (c: c.site == name) siteFiles);
      }
    );
  pool =
    name: p:
    given (
      p
      // {
        tls =
          if p.tls == "cluster" then
            trivet.nodeTls unit
          else if p.tls == null then
            null
          else
            lib.mapAttrs (key: _: trivet.renewed unit (poolFile name key)) p.tls;
      }
    );
in
{
  options.services.trivet = {
    sites = mkOption {
      type = types.attrsOf (types.submodule siteOptions);
      default = { };
      example = lib.literalExpression ''
        {
          shop = {
            names = [ "shop.foobar.com" ];
            certificates = [ { certificate = "/var/lib/acme/shop/fullchain.pem"; key = "/var/lib/acme/shop/key.pem"; } ];
            pool = "shop";
          };
        }
      '';
      description = "Sites beside that of `cluster.domain`, by their names in logs and metrics. Keys as in `docs/sites.md`.";
    };
    pools = mkOption {
      type = types.attrsOf (types.submodule poolOptions);
      default = { };
      example = lib.literalExpression ''{ shop.backends = { shop1 = "10.77.0.31:8080"; }; }'';
      description = "Pools beside `web`, the web tiers of the cluster, by their names. Keys as of `[web]` in `docs/balancer.md`.";
    };
    routes = routes // {
      description = "Routes of the site of `cluster.domain`. " + routes.description;
    };
    limits = limits // {
      description = "Limits of the site of `cluster.domain`. " + limits.description;
    };
    defaultSite = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "main";
      description = ''
        The site that answers for names that none has, `"main"` for that of `cluster.domain`. `null`: such requests are answered 421.
      '';
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = map (message: {
          assertion = false;
          message = "trivet: ${message}";
        }) (import ./site-problems.nix { inherit lib cfg; });
      }
      (lib.mkIf (trivet.has "balancer") {
        services.trivet.balancer.settings = settings.defaults (
          given {
            aliases = cfg.cluster.aliases;
            inherit (cfg) limits routes;
            sites = lib.mapAttrs site cfg.sites;
            pools = lib.mapAttrs pool cfg.pools;
            default_site = cfg.defaultSite;
          }
        );
        services.trivet.balancer.files = files;
      })
    ]
  );
}
