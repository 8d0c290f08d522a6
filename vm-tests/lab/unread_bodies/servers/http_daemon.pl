# Perl's HTTP::Daemon: get_request(1) hands over the head, and the body is the application's to read.
use strict;
use warnings;
use HTTP::Daemon;
use HTTP::Response;
use JSON::PP;
use Socket qw(IPPROTO_TCP TCP_NODELAY);

my $daemon = HTTP::Daemon->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], ReuseAddr => 1, Listen => 128)
    or die "port $ARGV[0]: $@";
# Head and content come in two packets, and without this the second 40 ms later. Connections inherit it.
setsockopt($daemon, IPPROTO_TCP, TCP_NODELAY, 1) or die "TCP_NODELAY: $!";
$SIG{CHLD} = "IGNORE";

sub take {
    my ($client, $length) = @_;
    my $body = $client->read_buffer // "";
    while (length $body < $length) {
        sysread($client, my $more, $length - length $body) or last;
        $body .= $more;
    }
    $client->read_buffer(length $body > $length ? substr($body, $length) : "");
    return substr($body, 0, $length);
}

sub exchange {
    my ($client, $request) = @_;
    my ($method, $target, $cookie) = ($request->method, $request->uri->as_string, $request->header("Cookie") // "");
    my (undef, $mode) = split m{/}, $target;
    my ($text, $body, $length) = ("", "", $request->header("Content-Length") // 0);
    if ($mode ne "healthz") {
        if ($mode eq "reads" && $request->header("Transfer-Encoding")) {
            $client->force_last_request;    # it reads no chunks, and therefore nothing after them
        } elsif ($mode eq "reads" || $mode eq "half") {
            print $client "HTTP/1.1 100 Continue\r\n\r\n" if lc($request->header("Expect") // "") eq "100-continue";
            $body = take($client, $mode eq "reads" ? $length : int($length / 2));
        }
        $text = "$method $target $cookie";
        syswrite STDOUT, encode_json({ method => $method, target => $target, cookie => $cookie, body => $body }) . "\n";
    }
    $client->send_response(HTTP::Response->new(200, "OK", ["Content-Length" => length $text], $text));
    if ($mode eq "babbles") {
        select undef, undef, undef, 0.05;    # for the next request to come on this connection
        print $client "HTTP/1.1 200 OK\r\nContent-Length: ", length $text, "\r\n\r\n", $text;
    }
}

while (1) {
    my $client = $daemon->accept or next;
    my $child = fork;
    if (!defined $child || $child) {
        close $client;
        next;
    }
    $client->autoflush(1);
    while (my $request = $client->get_request(1)) {
        exchange($client, $request);
    }
    exit;
}
