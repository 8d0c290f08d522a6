# Backups into a bucket and, beside it, onto another machine that lets the nodes add only. Beside cluster.nix.
{
  services.trivet.backup = {
    enable = true;
    repositories.bucket.s3 = {
      bucket = "foobar-backup";
      endpoint = "https://s3.eu-central-1.amazonaws.com";
      region = "eu-central-1";
      accessKeyFile = "/var/lib/trivet/secrets/s3-access-key";
      secretKeyFile = "/var/lib/trivet/secrets/s3-secret-key";
    };
    repositories.vault = {
      sftp = {
        host = "vault.example.org";
        user = "foobar";
        path = "/srv/foobar";
        keyFile = "/var/lib/trivet/secrets/vault-ssh-key";
      };
      appendOnly = true;
    };
    files.paths = [ "/var/lib/trivet/www" ];
    retention.monthly = 24;
  };
  # Whose host key ssh asks for.
  programs.ssh.knownHosts."vault.example.org".publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDJ5ZHVtbXkta2V5LWZvci10aGUtZXhhbXBsZS1vbmx5";
}
