// The keeper, with a small server that misbehaves on request (keeper/server.cc): what it holds survives every
// end of the server, and nothing that a server does harms it.

import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { getPriority } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { randomNumbers } from "../harness/random.mjs";
import { until } from "../harness/until.mjs";
import {
  buildServer,
  childrenOf,
  cpuTicks,
  descriptorCount,
  Host,
  isAlive,
  KeeperRun,
  keeperProgram,
  temporaryFolder,
} from "./keeper/fixture.mjs";

const folder = temporaryFolder();
after(() => rmSync(folder, { recursive: true, force: true }));
const built = existsSync(keeperProgram);
const server = built ? buildServer(folder) : null;
const skip = built ? false : `${keeperProgram} is not built: npm run build:native`;

/** Without a standby unless the test wants one; short times, so that no test waits long. */
const alone = ["--standby=off", "--short-life=0"];
const withStandby = ["--standby=on", "--standby-delay=0.02", "--short-life=0"];

function keeperTest(name, options, body, mode = "ok") {
  test(name, { skip, timeout: 60_000 }, async () => {
    const run = new KeeperRun(server, options, mode);
    try {
      await body(run);
    } catch (error) {
      console.error(run.log);
      throw error;
    } finally {
      await run.close();
    }
  });
}

const kill = (fields, signal = "SIGKILL") => process.kill(Number(fields.pid), signal);

async function warmStandby(host) {
  return until("a warm standby", async () => {
    await host.ask("info");
    const info = await host.ask("info");
    return info.includes("standby=warm") && Number(/standby_pid=(\d+)/.exec(info)[1]);
  });
}

keeperTest(
  "the first server starts with nothing and serves connections that the keeper accepted",
  alone,
  async (run) => {
    const host = await run.host();
    const fields = await host.who();
    assert.equal(fields.boots, "1");
    assert.equal(fields.role, "active");
    assert.equal(fields.items, "0");
    assert.equal(fields.items_said, "0");
    assert.equal(fields.given_new, "1");
    assert.equal(fields.nonblocking, "0");
    assert.equal(fields.go.reason, "start");
    assert.equal(fields.go.restarts, "0");
    assert.equal(fields.go.died_ns, undefined);
  },
);

keeperTest(
  "a killed server is replaced by a new one that has memory, listener and connections",
  alone,
  async (run) => {
    const hosts = [await run.host(), await run.host(), await run.host()];
    const before = await hosts[0].who({ connections: 3 });
    kill(before);
    const fields = await hosts[1].who({ boots: 2 });
    assert.notEqual(fields.pid, before.pid);
    assert.equal(fields.items, "5");
    assert.equal(fields.items_said, "5");
    assert.equal(fields.connections, "3");
    assert.equal(fields.nonblocking, "0");
    assert.equal(fields.go.reason, "crash");
    assert.equal(fields.go.exit, "signal:9");
    assert.equal(fields.go.killed, "0");
    assert.equal(fields.go.previous_pid, before.pid);
    assert.equal(fields.go.restarts, "1");
    assert.ok(BigInt(fields.went_at) >= BigInt(fields.go.died_ns));
    for (const host of hosts) await host.who({ boots: 2 });
    const later = await run.host();
    assert.equal((await later.who()).connections, "4");
    assert.equal(run.logged("refused"), 0);
  },
);

keeperTest("a standby takes over within milliseconds of the death", withStandby, async (run) => {
  const host = await run.host();
  let boots = 1;
  const pauses = [];
  for (; boots < 12; ++boots) {
    const standby = await warmStandby(host);
    kill(await host.who({ boots }));
    const fields = await host.who({ boots: boots + 1 });
    assert.equal(Number(fields.pid), standby);
    assert.equal(fields.role, "standby");
    assert.equal(fields.memory, "1");
    assert.equal(fields.nice, String(getPriority()), "the keeper's own");
    if (process.getuid() === 0) assert.equal(fields.policies, "5,0", "started as SCHED_IDLE, not left so");
    assert.equal(fields.items_said, "3");
    pauses.push(Number(BigInt(fields.went_at) - BigInt(fields.go.died_ns)) / 1e6);
  }
  pauses.sort((a, b) => a - b);
  console.log(
    `death seen → GO received, ms: median ${pauses[5].toFixed(2)}, worst ${pauses.at(-1).toFixed(2)}`,
  );
  assert.ok(pauses[5] < 20, `median ${pauses[5]} ms`);
});

keeperTest(
  "a standby that dies is replaced, and memory stored meanwhile reaches the standby",
  withStandby,
  async (run) => {
    const host = await run.host();
    const first = await warmStandby(host);
    process.kill(first, "SIGKILL");
    const second = await until("another standby", async () => {
      const pid = await warmStandby(host);
      return pid !== first && pid;
    });
    await host.ask("store one");
    await host.ask("replace two");
    kill(await host.who());
    const fields = await host.who({ boots: 2 });
    assert.equal(Number(fields.pid), second);
    assert.equal(await host.ask("note"), "two");
  },
);

keeperTest("both servers killed at once: a third one goes on", withStandby, async (run) => {
  const host = await run.host();
  const standby = await warmStandby(host);
  const fields = await host.who();
  process.kill(standby, "SIGKILL");
  kill(fields);
  const next = await host.who({ boots: 2 });
  assert.ok(![fields.pid, String(standby)].includes(next.pid));
});

keeperTest(
  "a memory file is refused twice under one name, replaced and forgotten on request",
  alone,
  async (run) => {
    const host = await run.host();
    await host.ask("store one");
    await host.ask("store two");
    await until("REFUSED", async () => (await host.ask("said")).includes("reason=exists"));
    kill(await host.who());
    await host.who({ boots: 2 });
    assert.equal(await host.ask("note"), "one");
    await host.ask("forget note");
    await until("FORGOTTEN", async () =>
      (await host.ask("said")).endsWith("|FORGOTTEN kind=memory name=note"),
    );
    kill(await host.who());
    assert.equal((await host.who({ boots: 3 })).memory, "1");
  },
);

keeperTest("a forgotten listener is closed; its connections stay", alone, async (run) => {
  const host = await run.host();
  const port = await run.port();
  await host.ask("forget-listener");
  await until("FORGOTTEN", async () => (await host.ask("said")).includes("FORGOTTEN kind=listener"));
  await assert.rejects(Host.open(port), { code: "ECONNREFUSED" });
  await host.who();
});

test("every exit of a server is a reason to start another: code, abort, code 0 unannounced", {
  skip,
}, async () => {
  for (const [command, exit] of [
    ["exit 3", "code:3"],
    ["exit 2", "code:2"],
    ["exit 0", "code:0"],
    ["abort", "signal:6"],
  ]) {
    const run = new KeeperRun(server, alone);
    try {
      const host = await run.host();
      await host.who();
      host.tell(command);
      assert.equal((await host.who({ boots: 2 })).go.exit, exit);
    } finally {
      await run.close();
    }
  }
});

keeperTest("an announced stop ends the service", alone, async (run) => {
  const host = await run.host();
  await host.who();
  host.tell("stop");
  assert.deepEqual(await run.exit, { code: 0, signal: null });
});

keeperTest("an announced stop ends the standby too", withStandby, async (run) => {
  const host = await run.host();
  const standby = await warmStandby(host);
  host.tell("stop");
  assert.deepEqual(await run.exit, { code: 0, signal: null });
  assert.ok(!isAlive(standby));
});

keeperTest(
  "repeated deaths are answered later and later, and connections made meanwhile are served in the end",
  ["--standby=off"],
  async (run) => {
    const host = await run.host();
    const fields = await host.who();
    run.setMode("exit 5");
    kill(fields);
    await run.untilLogged("a little later", 3);
    const later = await run.host();
    assert.ok(later.broken === null);
    const deaths = run.logged("has ended \\(crash, code:5\\)");
    run.setMode("ok");
    assert.equal((await later.who({ connections: 2 })).boots, "2");
    await host.who({ boots: 2 });
    assert.ok(deaths < 12, `${deaths} starts in no time`);
  },
);

keeperTest(
  "a server that has served for a while is replaced at once, however often it dies",
  ["--standby=off", "--short-life=0.1"],
  async (run) => {
    const host = await run.host();
    for (let boots = 1; boots < 8; ++boots) {
      const fields = await host.who({ boots });
      const ready = performance.now();
      await until("it has served", () => performance.now() - ready > 120);
      kill(fields);
    }
    await host.who({ boots: 8 });
    assert.equal(run.logged("a little later"), 0);
  },
);

keeperTest(
  "connections whose peer leaves while there is no server are closed",
  ["--standby=off"],
  async (run) => {
    const host = await run.host();
    const leaving = [];
    for (let i = 0; i < 5; ++i) leaving.push(await run.host());
    const fields = await host.who({ connections: 6 });
    run.setMode("exit 5");
    kill(fields);
    await run.untilLogged("a little later");
    const many = descriptorCount(run.pid);
    for (const leaver of leaving) leaver.close();
    await until("the keeper closes them", () => descriptorCount(run.pid) <= many - 5);
    run.setMode("ok");
    await host.who({ boots: 2, connections: 1 });
  },
);

keeperTest("a planned restart uses a fresh server and the connections stay", withStandby, async (run) => {
  const host = await run.host();
  const before = await host.who();
  const old = await warmStandby(host);
  host.tell("restart new version");
  const fields = await host.who({ boots: 2 });
  assert.ok(![before.pid, String(old)].includes(fields.pid));
  assert.equal(fields.go.reason, "upgrade");
  assert.equal(fields.go.killed, "1");
  assert.match(
    await host.ask("info").then(() => host.ask("info")),
    /last_reason=upgrade%20\(new%20version\)/,
  );
  await warmStandby(host);
  assert.ok(!isAlive(old));
});

keeperTest("a planned restart works without a standby, and by signal", alone, async (run) => {
  const host = await run.host();
  await host.who();
  run.process.kill("SIGUSR2");
  const fields = await host.who({ boots: 2 });
  assert.equal(fields.go.reason, "upgrade");
  assert.equal(fields.role, "standby");
});

for (const [what, mode, options] of [
  ["ends at once", "exit 3", []],
  ["ends before it is warm", "die-warm", []],
  ["does not become warm", "mute", ["--warm-time=3"]],
  ["does not begin", "hang", ["--warm-time=3"]],
]) {
  keeperTest(
    `a planned restart whose new server ${what} leaves the old one in place`,
    [...withStandby, ...options],
    async (run) => {
      const host = await run.host();
      const before = await host.who();
      await warmStandby(host);
      run.setMode(mode);
      host.tell("restart broken version");
      const fields = await until("RESTART-FAILED", async () => {
        const now = await host.who();
        return now.restart_failed !== "" && now;
      });
      assert.equal(fields.pid, before.pid);
      assert.match(fields.restart_failed, /the new server/);
      run.setMode("ok");
      await warmStandby(host);
      host.tell("restart good version");
      await host.who({ boots: 2 });
    },
  );
}

keeperTest(
  "a second planned restart is refused while one is under way",
  [...alone, "--warm-time=1"],
  async (run) => {
    const host = await run.host();
    await host.who();
    run.setMode("mute");
    host.tell("restart first");
    host.tell("restart second");
    await until("REFUSED", async () => (await host.ask("said")).includes("verb=RESTART"));
    await host.who({ restart_failed: "the new server was not warm in time" });
  },
);

keeperTest(
  "a server that does not come to rest is replaced after its deadline",
  [...alone, "--quiesce-time=0.2"],
  async (run) => {
    const host = await run.host();
    await host.who();
    host.tell("restart");
    await host.who({ boots: 2 });
    await run.untilLogged("did not come to rest");
  },
  "stubborn",
);

keeperTest(
  "a server that hangs is killed by the watchdog",
  [...alone, "--reactor-silence=0.5"],
  async (run) => {
    const host = await run.host();
    for (const [boots, command] of [
      [1, "hang"],
      [2, "silent"],
    ]) {
      await host.who({ boots });
      host.tell(command);
      const fields = await host.who({ boots: boots + 1 });
      assert.equal(fields.go.reason, "watchdog");
      assert.equal(fields.go.killed, "1");
    }
    const fields = await host.who({ boots: 3 });
    kill(fields, "SIGSTOP");
    assert.equal((await host.who({ boots: 4 })).go.reason, "watchdog");
  },
);

keeperTest(
  "a keeper that was stopped itself does not blame the server",
  [...alone, "--reactor-silence=0.5"],
  async (run) => {
    const host = await run.host();
    const fields = await host.who();
    run.process.kill("SIGSTOP");
    kill(fields, "SIGSTOP");
    const stopped = performance.now();
    await until("time passes", () => performance.now() - stopped > 2000);
    run.process.kill("SIGCONT");
    kill(fields, "SIGCONT");
    assert.equal((await host.who()).pid, fields.pid);
  },
);

keeperTest(
  "a server that never begins is replaced",
  [...alone, "--start-time=0.3"],
  async (run) => {
    await run.untilLogged("it has not begun", 2);
    run.setMode("ok");
    await (await run.host()).who();
  },
  "hang",
);

keeperTest("garbage from a server is ignored", withStandby, async (run) => {
  const host = await run.host();
  const before = await host.who();
  await warmStandby(host);
  const descriptors = descriptorCount(run.pid);
  for (let i = 0; i < 20; ++i) await host.ask("misbehave");
  assert.equal((await host.who()).pid, before.pid);
  await run.untilLogged("no message");
  await until("nothing is left of it", () => descriptorCount(run.pid) === descriptors);
  kill(before);
  assert.equal((await host.who({ boots: 2 })).items_said, "3");
});

keeperTest("a server that floods the keeper does not stop it", alone, async (run) => {
  const host = await run.host();
  const before = await host.who();
  host.tell("flood");
  const other = await run.host();
  assert.equal((await other.who()).pid, before.pid);
  assert.ok(run.log.length < 200_000, `${run.log.length} bytes of log`);
});

keeperTest("a server that closes its channel is replaced", alone, async (run) => {
  const host = await run.host();
  await host.who();
  host.tell("close-channel");
  const fields = await host.who({ boots: 2 });
  assert.equal(fields.go.reason, "watchdog");
});

keeperTest("children of a server do not hinder its successor", alone, async (run) => {
  const host = await run.host();
  const fields = await host.who();
  host.tell("fork");
  const grandchildren = await until("two children", () => {
    const children = childrenOf(Number(fields.pid));
    return children.length === 2 && children;
  });
  kill(fields);
  assert.equal((await host.who({ boots: 2 })).go.exit, "signal:9");
  await until("its process group is gone", () => !isAlive(grandchildren[0]));
});

for (const [what, end] of [
  ["dies", (fields) => kill(fields)],
  ["is killed by the watchdog", (_fields, host) => host.tell("silent")],
]) {
  keeperTest(
    `a server that ${what} and cannot be reaped has no successor before it is`,
    [...withStandby, "--reap-warning=0.3", "--reactor-silence=0.5"],
    async (run) => {
      const host = await run.host();
      const fields = await host.who();
      await warmStandby(host);
      assert.equal(await host.ask("trace"), "done");
      end(fields, host);
      await run.untilLogged("has not ended");
      const cpu = cpuTicks(run.pid);
      const late = await run.host();
      const waited = performance.now();
      await until("half a second passes", () => performance.now() - waited > 500);
      assert.equal(run.logged("standby goes on"), 0);
      assert.ok(cpuTicks(run.pid) - cpu < 10, "the keeper does not spin");
      writeFileSync(join(run.folder, "release"), "");
      assert.equal((await late.who({ boots: 2, connections: 2 })).role, "standby");
      await host.who({ boots: 2 });
    },
  );
}

keeperTest("SIGTERM stops the server in order", withStandby, async (run) => {
  const host = await run.host();
  const pids = [Number((await host.who()).pid), await warmStandby(host)];
  assert.deepEqual(await run.stop(), { code: 0, signal: null });
  await until("its last words", () => run.log.includes("server: stopped in order"));
  assert.ok(!pids.some(isAlive));
});

keeperTest("SIGTERM kills a server that does not stop", [...alone, "--stop-time=0.3"], async (run) => {
  const host = await run.host();
  kill(await host.who(), "SIGSTOP");
  assert.deepEqual(await run.stop(), { code: 0, signal: null });
});

keeperTest("SIGHUP reaches the server", alone, async (run) => {
  const host = await run.host();
  await host.who();
  run.process.kill("SIGHUP");
  await host.who({ hangups: 1 });
});

keeperTest("no server survives its keeper", withStandby, async (run) => {
  const host = await run.host();
  const pids = [Number((await host.who()).pid), await warmStandby(host)];
  await run.stop("SIGKILL");
  await until("all servers are gone", () => !pids.some(isAlive));
});

keeperTest(
  "a first start that cannot succeed ends the keeper with the server's code",
  alone,
  async (run) => {
    assert.deepEqual(await run.exit, { code: 2, signal: null });
  },
  "exit 2",
);

test("a command that does not exist ends the keeper with 127; wrong usage with 2", { skip }, async () => {
  const missing = new KeeperRun(join("/nonexistent", "server"), alone);
  assert.deepEqual(await missing.exit, { code: 127, signal: null });
  await missing.close();
  const wrong = new KeeperRun(server, ["--standby=maybe"]);
  assert.deepEqual(await wrong.exit, { code: 2, signal: null });
  await wrong.close();
});

keeperTest(
  "more connections than allowed are closed, and room is used again",
  [...alone, "--connections-max=4"],
  async (run) => {
    const hosts = [];
    for (let i = 0; i < 4; ++i) hosts.push(await run.host());
    await hosts[0].who({ connections: 4 });
    const refused = await run.host();
    await until("it is closed", () => refused.broken !== null);
    hosts[3].close();
    await hosts[0].who({ connections: 3 });
    await (await run.host()).who();
    assert.match(await hosts[0].ask("info").then(() => hosts[0].ask("info")), / connections=4 .*refused=1 /);
  },
);

keeperTest("1,500 connections change hands", withStandby, async (run) => {
  const hosts = [];
  for (let i = 0; i < 1500; ++i) hosts.push(await run.host());
  const before = await hosts[0].who({ connections: 1500 });
  await warmStandby(hosts[0]);
  kill(before);
  const fields = await hosts[1499].who({ boots: 2 });
  assert.equal(fields.items_said, "1502");
  assert.equal(fields.connections, "1500");
  assert.ok(hosts.every((host) => host.broken === null));
});

keeperTest(
  "a hand-over that fills the channel goes on when the server reads, whatever does not fit",
  alone,
  async (run) => {
    const hosts = [];
    for (let i = 0; i < 180; ++i) hosts.push(await run.host());
    await hosts[0].who({ connections: 180 });
    run.setMode("slow");
    // Somewhere here the channel is full exactly at the last message: about 280 of them fit.
    for (let boots = 1; boots <= 130; ++boots) {
      kill(await hosts[0].who({ boots }));
      hosts.push(await run.host());
    }
    await hosts[0].who({ boots: 131, connections: 310 });
  },
);

keeperTest(
  "under kills and connections that come and go, none is lost and no descriptor leaks",
  withStandby,
  async (run) => {
    const seed = Number(process.env.KEEL_TEST_SEED ?? randomInt(2 ** 31));
    const seconds = Number(process.env.KEEL_KEEPER_CHURN_SECONDS ?? 6);
    const numbers = randomNumbers(seed);
    const random = (below) => Math.floor(numbers() * below);
    const lasting = await run.host();
    await lasting.who();
    await warmStandby(lasting);
    const baseline = descriptorCount(run.pid);
    const port = await run.port();
    const end = performance.now() + seconds * 1000;
    let served = 0;
    let kills = 0;
    const comeAndGo = async () => {
      while (performance.now() < end) {
        const host = await Host.open(port);
        for (let i = random(3); i >= 0; --i) await host.ask("id");
        assert.equal(host.broken, null);
        host.close();
        ++served;
      }
    };
    const killer = async () => {
      while (performance.now() < end) {
        const children = childrenOf(run.pid);
        const pid = children[random(Math.max(children.length, 1))];
        if (pid !== undefined && isAlive(pid)) {
          process.kill(pid, "SIGKILL");
          ++kills;
        }
        const wait = performance.now() + random(120);
        await until("a moment passes", () => performance.now() >= wait);
      }
    };
    await Promise.all([killer(), ...Array.from({ length: 8 }, comeAndGo)]);
    console.log(`seed ${seed}: ${served} connections, ${kills} kills, none lost`);
    assert.ok(served > 50 && kills > 20);
    await lasting.who({ connections: 1 });
    await warmStandby(lasting);
    await until(
      `descriptors: ${descriptorCount(run.pid)}, before ${baseline}`,
      () => descriptorCount(run.pid) === baseline,
    );
  },
);
