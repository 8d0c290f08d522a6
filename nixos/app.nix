# The application of an app node: the reference site, or any program that keeps the contract in docs/app.md. It is
# told by environment where to listen and which two database addresses to use.
{
  config,
  lib,
  pkgs,
  trivet,
  ...
}:
let
  cfg = config.services.trivet;
  inherit (trivet) ports;
  settings = import ./settings.nix { inherit lib pkgs; };
  service = import ./service.nix { inherit lib pkgs; };
  unit = "trivet-app";
  file = settings.generate "app.json" cfg.app.settings;
  own = cfg.app.command == null;
  names = lib.attrNames cfg.app.environment;
  # What the app's unit says of its environment, and why not the site.
  taken = {
    LISTEN = "services.trivet.app.settings.listen and services.trivet.web.settings.app.address say where the app listens";
    DATABASE_CA_FILE = "it is the cluster's own";
    PATH = "add packages to systemd.services.trivet-app.path";
  };
in
{
  options.services.trivet.app = {
    command = lib.mkOption {
      type = with lib.types; nullOr (coercedTo (addCheck package lib.isDerivation) lib.getExe str);
      default = null;
      example = lib.literalExpression ''"''${pkgs.my-site}/bin/my-site --production"'';
      description = ''
        Program to run in place of the reference site: a package, or a command line for systemd. It serves HTTP on `LISTEN`, answers `GET /healthz`, reaches MySQL
        by `DATABASE_WRITE_URL` and `DATABASE_READ_URL` (verifying against `DATABASE_CA_FILE`), and on SIGTERM finishes its
        requests and exits.
      '';
    };
    environment = lib.mkOption {
      type = with lib.types; attrsOf str;
      default = { };
      description = "More environment variables for the app. Not for secrets: they would be in the store.";
    };
    settings = settings.option "trivet-app (the reference site; unused with `command`)";
  };

  config = lib.mkIf (cfg.enable && trivet.has "app") {
    services.trivet.app.settings = settings.defaults {
      node = trivet.self.name;
      listen = trivet.local ports.app;
      metrics.listen = trivet.at ports.appMetrics trivet.self;
      site = {
        title = cfg.cluster.domain;
        base_url = "https://${cfg.cluster.domain}";
      };
      # The two URLs hold a password: they come by environment, from app.env among the node's secrets.
      database.ca_file = trivet.credential unit "ca.pem";
    };

    assertions = [
      {
        assertion = cfg.web.settings.app.address == cfg.app.settings.listen;
        message =
          "trivet: node ${trivet.self.name}'s web tier sends requests to ${cfg.web.settings.app.address}, but the app listens on "
          + "${cfg.app.settings.listen}; set services.trivet.app.settings.listen and services.trivet.web.settings.app.address alike";
      }
      {
        assertion = own || builtins.match "/[^\n]+" cfg.app.command != null;
        message =
          "trivet: services.trivet.app.command is ${builtins.toJSON cfg.app.command}; systemd wants one line that begins with the program's "
          + "absolute path, such as \"\${pkgs.my-site}/bin/my-site --production\", or give it a package";
      }
    ]
    ++ map (name: {
      assertion = builtins.match "[A-Za-z_][A-Za-z0-9_]*" name != null;
      message =
        "trivet: services.trivet.app.environment has the name ${builtins.toJSON name}; a variable's name has letters, digits and underscores, "
        + "and does not begin with a digit";
    }) names
    ++ map (name: {
      assertion = !lib.hasInfix "\n" cfg.app.environment.${name};
      message =
        "trivet: the value of services.trivet.app.environment.${name} has more than one line, which an environment of systemd cannot "
        + "have; put it into a file, and the file's name into the variable";
    }) names
    ++ lib.mapAttrsToList (name: instead: {
      assertion = !cfg.app.environment ? ${name};
      message = "trivet: services.trivet.app.environment sets ${name}, which Trivet sets itself; ${instead}";
    }) taken
    ++ map (name: {
      assertion = !cfg.app.environment ? ${name};
      message =
        "trivet: services.trivet.app.environment sets ${name}, whose password would be in the store for everyone to read; "
        + "put it into ${trivet.secret "app.env"} on the node";
    }) [ "DATABASE_WRITE_URL" "DATABASE_READ_URL" ];

    warnings = map (
      name:
      "trivet: services.trivet.app.environment sets ${name}, which looks like a secret, and the store keeps it for everyone to read; "
      + "put it into ${trivet.secret "app.env"} on the node"
    ) (lib.filter (name: builtins.match ".*(PASSWORD|PASSWD|SECRET|TOKEN|PRIVATE_KEY|API_KEY)" name != null) names);

    services.trivet.generated = lib.optional own {
      program = "trivet-app";
      inherit file;
    };
    services.trivet.users = [ unit ];
    environment.etc."trivet/app.json" = lib.mkIf own { source = file; };

    systemd.services.${unit} = service {
      user = unit;
      execStart = if own then "${cfg.package}/bin/trivet-app --config ${file}" else cfg.app.command;
      credentials."ca.pem" = trivet.secret "ca.pem";
      after = [ "trivet-gateway.service" ];
      serviceConfig = {
        EnvironmentFile = trivet.secret "app.env"; # read by systemd as root: DATABASE_WRITE_URL, DATABASE_READ_URL
      }
      // lib.optionalAttrs (!own) {
        # A program of the site's own need not know systemd's readiness, and may compile code as it runs.
        Type = "exec";
        WatchdogSec = 0;
        MemoryDenyWriteExecute = false;
        StateDirectory = unit;
      };
    } // {
      description = "Trivet application";
      environment = {
        LISTEN = cfg.app.settings.listen;
        DATABASE_CA_FILE = trivet.credential unit "ca.pem";
      }
      // removeAttrs cfg.app.environment (lib.attrNames taken);
    };
  };
}
