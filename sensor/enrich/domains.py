"""The registered domain of a name: the part that somebody owns, by which DNS statistics are kept.

A short table instead of the Public Suffix List: its 10,000 rules are 2 MB in a core that aims at 48, and
change weekly. The table has the top levels under which names are registered at the second level, and the
services that hand out names to strangers (hosting, dynamic DNS, tunnels), where two customers must not be
taken for one. What it lacks falls to the last two labels: statistics then count several owners as one.
It is no basis for trust: a policy compares whole names.
"""

from __future__ import annotations

SUFFIX_LABELS = 4  # the longest in the table

# Registration at the second level, by top level.
_SECOND = {
    "ar": "com edu gob net org",
    "au": "asn com edu gov id net org",
    "bd": "com edu gov net org",
    "br": "com edu gov net org",
    "cn": "ac com edu gov net org",
    "co": "com edu gov net org",
    "cy": "com net org",
    "eg": "com edu gov org",
    "hk": "com edu gov idv net org",
    "id": "ac co go or sch web",
    "il": "ac co gov net org",
    "in": "ac co firm gen gov ind net org res",
    "jp": "ac ad co ed go gr lg ne or",
    "ke": "ac co go or",
    "kr": "ac co go ne or pe re",
    "mx": "com edu gob net org",
    "my": "com edu gov net org",
    "ng": "com edu gov org",
    "nz": "ac co geek gen govt iwi net org school",
    "pe": "com edu gob net org",
    "ph": "com edu gov net org",
    "pk": "com edu gov net org",
    "pl": "com edu gov net org",
    "ru": "com msk org spb",
    "sa": "com edu gov net org",
    "sg": "com edu gov net org per",
    "th": "ac co go in net or",
    "tr": "com edu gen gov net org web",
    "tw": "com edu gov idv net org",
    "ua": "com edu gov in net org",
    "uk": "ac co gov ltd me net nhs org plc police sch",
    "uy": "com edu gub net org",
    "ve": "co com net org",
    "vn": "com edu gov net org",
    "za": "ac co gov net org web",
}
# Names for strangers: pages and applications; storage and clouds; dynamic DNS; tunnels.
_SHARED = """
github.io githubusercontent.com gitlab.io bitbucket.io pages.dev workers.dev r2.dev vercel.app now.sh netlify.app
herokuapp.com onrender.com fly.dev railway.app up.railway.app deno.dev glitch.me surge.sh web.app firebaseapp.com
firebaseio.com appspot.com run.app a.run.app cloudfunctions.net blogspot.com wordpress.com tumblr.com wixsite.com
weebly.com webflow.io myshopify.com hf.space streamlit.app replit.app replit.dev repl.co codesandbox.io csb.app
stackblitz.io webcontainer.io github.dev app.github.dev gitpod.io supabase.co neocities.org readthedocs.io
azurewebsites.net azurestaticapps.net cloudapp.azure.com cloudapp.net trafficmanager.net blob.core.windows.net
file.core.windows.net queue.core.windows.net table.core.windows.net web.core.windows.net database.windows.net
azureedge.net azurefd.net azurecr.io vault.azure.net s3.amazonaws.com s3-accelerate.amazonaws.com elasticbeanstalk.com
cloudfront.net awsapprunner.com on.aws lambda-url.on.aws execute-api.amazonaws.com storage.googleapis.com
digitaloceanspaces.com ondigitalocean.app backblazeb2.com linodeobjects.com wasabisys.com aliyuncs.com myqcloud.com
fastly.net global.ssl.fastly.net b-cdn.net edgesuite.net edgekey.net akamaiedge.net akamaized.net
duckdns.org no-ip.org no-ip.com no-ip.biz ddns.net hopto.org zapto.org sytes.net servebeer.com myftp.org redirectme.net
dyndns.org dyndns.info dyn-o-saur.com dynu.net dynv6.net freeddns.org mooo.com chickenkiller.com afraid.org nip.io
sslip.io xip.io traefik.me localtest.me lvh.me desec.io dedyn.io synology.me myqnapcloud.com asuscomm.com eu.org
us.kg spdns.org
ngrok.io ngrok.app ngrok.dev ngrok-free.app ngrok-free.dev eu.ngrok.io us.ngrok.io ap.ngrok.io trycloudflare.com
cfargotunnel.com loca.lt localtunnel.me localhost.run lhr.life lhr.rocks lhrtunnel.link serveo.net serveousercontent.com
pinggy.io a.pinggy.io pinggy.link free.pinggy.link a.free.pinggy.link telebit.io telebit.cloud localxpose.io loclx.io
packetriot.net pktriot.net zrok.io share.zrok.io playit.gg ply.gg at.ply.gg gl.at.ply.gg joinmc.link pagekite.me
tunnelmole.net tunnelto.dev bore.pub beeceptor.com devtunnels.ms euw.devtunnels.ms use.devtunnels.ms ts.net
tailscale.net beta.tailscale.net cpolar.io cpolar.cn natappfree.cc nat123.net vicp.net oicp.net sakurafrp.com
"""
_S3_REGIONS = """
us-east-1 us-east-2 us-west-1 us-west-2 ca-central-1 sa-east-1 eu-central-1 eu-central-2 eu-west-1 eu-west-2 eu-west-3
eu-north-1 eu-south-1 ap-south-1 ap-south-2 ap-east-1 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-southeast-1
ap-southeast-2 ap-southeast-3 me-central-1 me-south-1 il-central-1 af-south-1
"""
SUFFIXES = frozenset(
    [
        *(f"{second}.{top}" for top, seconds in _SECOND.items() for second in seconds.split()),
        *_SHARED.split(),
        *(f"s3.{region}.amazonaws.com" for region in _S3_REGIONS.split()),
    ]
)

# Stand for an escaped backslash and an escaped dot while labels are told apart; a name as the parser of
# sensor/enrich/protocols/dns.py writes it has no such characters.
_BACKSLASH, _DOT = "\x01", "\x02"


def labels_of(name: str) -> list[str]:
    """Labels of a name in presentation form; a dot within one (`\\.`, RFC 1035, 5.1) parts nothing."""
    if "\\" not in name:
        return name.split(".")
    marked = name.replace("\\\\", _BACKSLASH).replace("\\.", _DOT).split(".")
    return [label.replace(_DOT, "\\.").replace(_BACKSLASH, "\\\\") for label in marked]


def registered_domain(name: str) -> str:
    """Of a lower-case name without the last dot: public suffix and one label more. A public suffix, a single
    label, an address and "" are returned as they are."""
    # No top level is a number (RFC 3696, 2), so that is an IPv4 address.
    if ":" in name or name[name.rfind(".") + 1 :].isdigit():
        return name
    labels = labels_of(name)
    if len(labels) <= 2:
        return name
    for count in range(min(SUFFIX_LABELS, len(labels)), 1, -1):
        if ".".join(labels[-count:]) in SUFFIXES:
            return ".".join(labels[-count - 1 :])
    return ".".join(labels[-2:])
