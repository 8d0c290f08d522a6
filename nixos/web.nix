# The web tier of an app node: static files, and everything else to the app beside it or, when that is down, once over to
# another node's web tier.
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
  unit = "trivet-web";
  file = settings.generate "web.json" cfg.web.settings;
in
{
  options.services.trivet.web = {
    root = lib.mkOption {
      type = with lib.types; either str path;
      default = "/var/lib/trivet/www";
      description = ''
        Folder of static files, served at the site's root before the app is asked; a folder on the node, or a package. Read
        when trivet-web starts. It is public: no secrets in it.
      '';
    };
    settings = settings.option "trivet-web";
  };

  config = lib.mkIf (cfg.enable && trivet.has "app") {
    services.trivet.web.settings = settings.defaults (
      {
        node = trivet.self.name;
        listen = [ (trivet.at ports.web trivet.self) ];
        metrics.listen = trivet.at ports.webMetrics trivet.self;
        tls = trivet.nodeTls unit;
        static.root = "${cfg.web.root}";
        app.address = trivet.local ports.app;
      }
      // lib.optionalAttrs (lib.length trivet.apps > 1) {
        peers.backends = map (n: {
          inherit (n) name;
          address = trivet.at ports.web n;
        }) (trivet.others trivet.apps);
      }
    );

    services.trivet.generated = [
      {
        program = "trivet-web";
        inherit file;
      }
    ];
    services.trivet.users = [ unit ];
    environment.etc."trivet/web.json".source = file;
    systemd.tmpfiles.rules = lib.optional (cfg.web.root == "/var/lib/trivet/www") "d /var/lib/trivet/www 0755 root root - -";

    systemd.services.${unit} = service {
      user = unit;
      execStart = "${cfg.package}/bin/trivet-web --config ${file}";
      credentials = trivet.nodeCredentials;
      serviceConfig = {
        # Reads the static files again; where some cannot be read, what was served is served on, and `systemctl reload` fails.
        ExecReload = [
          "${cfg.package}/bin/trivet-web --config ${file} --check-files"
          "${pkgs.coreutils}/bin/kill -HUP $MAINPID"
        ];
        # Without, systemd 262 lets the first of them read no credential.
        RefreshOnReload = "credentials";
      };
    } // { description = "Trivet web tier"; };
  };
}
