# Every file in scenarios/ as a NixOS VM test: the example cluster's three nodes and a client outside it. The lab runs the same
# files on nspawn machines (vm-tests/lab); a scenario knows nothing of the difference.
{ pkgs }:
let
  inherit (pkgs) lib;
  trivet = pkgs.callPackage ../nixos/package.nix { };
  cluster = import ./cluster.nix { inherit lib; };

  scenarios = lib.filterAttrs (name: kind: kind == "regular" && lib.hasSuffix ".py" name && !lib.hasPrefix "_" name) (
    builtins.readDir ./scenarios
  );

  # Made by the operator's own command. For tests alone: whatever is in the store, everyone can read.
  secrets = pkgs.runCommand "trivet-test-secrets" { nativeBuildInputs = [ trivet ]; } ''
    trivet secrets init --cluster ${pkgs.writeText "cluster.json" (builtins.toJSON cluster.file)} --out secrets
    cp --recursive secrets $out
  '';

  # One network beside the driver's own, with the addresses of the example.
  network = addresses: {
    virtualisation.interfaces.eth1 = {
      vlan = 1;
      assignIP = false;
    };
    networking = {
      useDHCP = false;
      interfaces.eth1.ipv4.addresses = map (address: {
        inherit address;
        prefixLength = 24;
      }) addresses;
      primaryIPAddress = lib.mkForce (lib.head addresses);
    };
  };

  # A scenario may put another app in the reference site's place: `# app: NAME` in its head.
  python = "${pkgs.python3.withPackages (python: [ python.pymysql ])}/bin/python3";
  apps = {
    reference = null;
    guestbook = "${python} ${../examples/guestbook/guestbook.py}";
    ledger = "${python} ${./apps/ledger.py}";
  };
  appOf =
    file:
    let
      asked = builtins.match ".*\n# app: ([a-z]+)\n.*" (builtins.readFile (./scenarios + "/${file}"));
    in
    if asked == null then "reference" else lib.head asked;

  # What scenarios import.
  library = pkgs.linkFarm "trivet-vm-tests" [
    {
      name = "chaos";
      path = ./chaos;
    }
  ];

  node = command: name: {
    imports = [
      ../nixos
      ../nixos/example/cluster.nix
      ./settings.nix
      (network [ cluster.nodes.${name}.address ])
    ];
    services.trivet.package = trivet;
    services.trivet.app.command = command;
    services.trivet.cluster.nodes = lib.mapAttrs (_: _: { interface = "eth1"; }) cluster.nodes;
    environment.systemPackages = [ pkgs.jq ]; # scenarios read nftables' counters
    virtualisation = {
      memorySize = 2048;
      diskSize = 4096;
    };
    # An operator copies each node its own folder, once; here every boot does.
    system.activationScripts.trivet-test-secrets = ''
      install -d -m 0700 /var/lib/trivet/secrets
      install -m 0600 ${secrets}/${name}/* /var/lib/trivet/secrets/
    '';
  };

  client = {
    imports = [
      (network [
        "10.77.0.100" # a stranger
        "10.77.0.200" # an administrator, when a scenario asks from this address
      ])
    ];
    networking.hosts = lib.genAttrs cluster.file.virtual_addresses (_: [ cluster.file.domain ]);
    networking.firewall.enable = false;
    security.pki.certificateFiles = [ "${secrets}/ca/ca.pem" ];
    environment.systemPackages = [
      pkgs.curl
      pkgs.python3
      pkgs.openssl
      # The continuous client that counts what a user would have seen.
      (pkgs.writeScriptBin "trivet-probe" ("#!${lib.getExe pkgs.python3}\n" + builtins.readFile ./probe.py))
      # Concurrent users of the ledger, who write down what they saw.
      (pkgs.writeScriptBin "trivet-ledger" ("#!${lib.getExe pkgs.python3}\n" + builtins.readFile ./ledger_client.py))
    ];
  };

  # The machines, evaluated once for each app and not once for each scenario: fourteen times four NixOS systems took 12 GB of
  # memory. Which scenario the driver runs is told by a variable of its build.
  machines = lib.mapAttrs (
    app: command:
    pkgs.testers.runNixOSTest {
      name = "trivet-${app}";
      nodes = {
        inherit client;
      }
      // lib.mapAttrs (name: _: node command name) cluster.nodes;
      testScript = ''
        import os
        import sys

        sys.path.insert(0, "${library}")
        script = os.environ["TRIVET_SCENARIO"]
        with open(script) as file:
            text = compile(file.read(), script, "exec")
        exec(text, globals())
      '';
      # Scenarios are checked where they are written; the driver's checkers know one driver only.
      skipLint = true;
      skipTypeCheck = true;
    }
  ) apps;
in
lib.mapAttrs' (
  file: _:
  let
    name = lib.removeSuffix ".py" file;
  in
  lib.nameValuePair "scenario-${name}" (
    machines.${appOf file}.config.rawTestDerivation.overrideAttrs {
      name = "vm-test-run-trivet-${name}";
      TRIVET_SCENARIO = pkgs.writeText "${name}.py" (
        builtins.readFile ./prelude.py + builtins.readFile (./scenarios + "/${file}")
      );
    }
  )
) scenarios
