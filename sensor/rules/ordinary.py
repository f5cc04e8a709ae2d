"""Command lines of everyday work: how often a literal is in them tells how poor a clause it makes."""

from __future__ import annotations

LINES = """\
/bin/sh -c cd /home/user/project && make -C sub all V=1
bash -c ls -la /tmp/x | head -n 20; cat README.md
/usr/bin/env bash -l -i
sudo -u user env PATH=/usr/local/bin:/usr/bin:/bin sh -e build.sh
gcc -O2 -g -Wall -fPIC -I/usr/include/python3.11 -DNAME=1 -c src/main.c -o build/temp.linux-x86_64/main.o
/usr/lib/gcc/x86_64-linux-gnu/12/cc1 -quiet -imultiarch x86_64-linux-gnu a.c -mtune=generic -o /tmp/ccA1.s
as -I include --64 -o build/a.o /tmp/ccA1.s
/usr/bin/ld -plugin liblto.so --build-id -m elf_x86_64 -dynamic-linker /lib64/ld-linux.so.2 -pie -o prog -lc
ar rcs libx.a a.o b.o
make -j8 all
cmake -S . -B build -DCMAKE_BUILD_TYPE=Release --install-prefix /opt/x
ninja -C build -j 4 install
python3 -m pip install --user --upgrade -r requirements.txt --index-url https://host.org/simple
/usr/bin/python3.11 -c from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)
python -m pytest -q -x tests/test_a.py -k name --maxfail=1 -n 4
python train.py --config conf/base.yaml --epochs 10 --lr 0.001 --output /data/out
python -m ipykernel_launcher -f /root/.local/share/jupyter/runtime/kernel-12ab.json
uvicorn server:app --host 127.0.0.1 --port 8000 --reload
node /usr/lib/node_modules/npm/bin/npm-cli.js install left-pad@1.3.0
npm run build -- --mode production
git clone --depth 1 https://github.com/org/repo.git
git -c core.quotepath=false diff --stat HEAD~1 -- src/a.py
git status --porcelain -uno
ssh git@github.com git-upload-pack 'org/repo.git'
curl -sSfL -o out.tar.gz https://pypi.org/simple/p/
wget -q http://localhost:8080/index.html
tar xzf out.tar.gz -C /opt
find . -type f -name *.py -exec grep -n pattern {} +
grep -rn --include=*.py pattern src
sed -i s/foo/bar/g conf.txt
rm -rf /tmp/tmp12
cp -a src dst
mkdir -p a/b
cat /etc/os-release
sort -u -k 2 list.txt
apt-get install -y --no-install-recommends gcc
dpkg --configure -a
java -jar app.jar --server.port=9000
cargo build --release
go test ./... -run Test -count=1
docker-init -- sleep 5
torchrun --nproc_per_node=8 --master_addr 10.0.0.1 --master_port 29500 train.py
/usr/bin/python3 -c import sys, json; print(json.dumps({"version": sys.version_info[:2]}, indent=2))
/opt/env/bin/python /opt/env/lib/python3.11/site-packages/setuptools/build_meta.py --output /tmp/build.json
python -u -m myproject.cli run --seed 1 --workers 4 --input s3://bucket/data/*.parquet --verbose
timeout 30 python3 -c from pathlib import Path; print(sorted(str(p) for p in Path(".").glob("*.txt")))
/bin/sh -c set -e; for f in $(ls src); do test -f "$f" && cp "$f" build/; done; echo done > build/stamp
bash -c while read -r line; do echo "${line%%:*}" | tr -d ' '; done < list.txt
bash -lc source ~/.bashrc && cd /workspace && pytest tests 2>&1 | tail -n 40
bash -c check() { if [ -z "$1" ]; then return 1; fi; } check "$HOME" || exit 1 cat > notes.md <<'EOF' - a line EOF
sh -c 'git' rev-parse --abbrev-ref HEAD 2>/dev/null
uname -m
date +%Y-%m-%d
id -u
hostname
whoami
stat -c %s a.bin
head -n 1 a.csv
tail -f logs/app.log
cat -
tr -d \\n
tr a-z A-Z
cut -d : -f 1
awk -F , {print $1, $3} table.csv
wc -l src/a.py
basename /usr/lib/x.so .so
dirname -- ./configure
readlink -f /usr/bin/cc
test -d build
ls -la
xargs -0 -n 1 rm -f
env LC_ALL=C sort
ps aux
expr 3 + 4
sleep 0.5
jq -r .items[].name out.json
rustc --crate-name app --edition=2021 src/main.rs --crate-type bin --emit=dep-info,link -C opt-level=3
/usr/lib/gcc/x86_64-linux-gnu/12/collect2 -o a.out /usr/lib/x86_64-linux-gnu/crt1.o -L/usr/lib/../../lib64 -lgcc_s
/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus -D_GNU_SOURCE src/b.cpp -dumpbase b.cpp -O2 -std=gnu++17 -o /tmp/ccB2.s
curl -s -X POST -H Content-Type: application/json -d {"name":"a","text":"hello"} http://127.0.0.1:8000/v1/items
git commit -q -m Fix the parser: an empty list is no error
git log --oneline -n 5 origin/main
mv build/a.tmp build/a
cc -DHAVE_CONFIG_H -I. -Isrc -O2 -MT b.o -MD -MP -MF .deps/b.Tpo -c -o b.o src/b.c
as -Isrc -O2 --64 -o b.o /tmp/ccC3.s
x86_64-linux-gnu-gcc -shared -Wl,-O1 -Wl,-z,relro -g build/a.o -L/usr/lib -lm -o build/a.cpython-311-x86_64-linux-gnu.so
c++ -fPIC -std=c++17 -isystem third_party/include -c lib/d.cc -o CMakeFiles/d.dir/lib/d.cc.o
/usr/bin/ld -dynamic-linker /lib64/ld-linux-x86-64.so.2 -o d crt1.o crti.o d.o -lc --as-needed -lgcc_s crtn.o
sed -n s/^version = //p setup.cfg
sed -e s,x,y,g -e s/[^a-z]/_/g
grep -q main src/a.c
grep -v ^#
egrep -c ^processor /proc/cpuinfo
chmod 644 build/a.txt
chmod +x run.sh
ln -sf ../lib/a.so b.so
touch .stamp
rmdir conftest.dir
cmp -s a.h b.h
diff -u a.txt b.txt
install -m 644 a.h /usr/local/include
mktemp -d
nproc
pwd
which python3
printf %s\\n yes
ldconfig -p
gzip -dc a.gz
git rev-parse --show-toplevel
git add -A
pip list --format=freeze
sleep 1
tee build.log""".splitlines()

PROGRAMS = [line.partition(" ")[0].rpartition("/")[2] for line in LINES]
