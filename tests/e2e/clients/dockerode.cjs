// dockerode: the library of Node's programs.
const assert = require('node:assert');
const { PassThrough } = require('node:stream');
const Docker = require('dockerode');

const text = (stream) => new Promise((resolve, reject) => {
  const chunks = [];
  stream.on('data', (chunk) => chunks.push(chunk));
  stream.on('end', () => resolve(Buffer.concat(chunks).toString()));
  stream.on('error', reject);
});

async function main() {
  const docker = new Docker();
  assert.strictEqual((await docker.ping()).toString(), 'OK');
  const events = await docker.getEvents({ filters: { type: ['container'] } });
  const seen = [];
  events.on('data', (data) => data.toString().trim().split('\n').forEach((line) => seen.push(JSON.parse(line).Action)));

  // run: create, attach, start, wait, both streams told apart.
  const out = new PassThrough(); const err = new PassThrough();
  const both = Promise.all([text(out), text(err)]);
  const [result, once] = await docker.run('tiny', ['sh', '-c', 'echo out; echo err >&2; exit 3'], [out, err], { Tty: false });
  out.end(); err.end();
  assert.deepStrictEqual(await both, ['out\n', 'err\n']);
  assert.strictEqual(result.StatusCode, 3);
  await once.remove();

  // Attached with a terminal's input, hijacked.
  const cat = await docker.createContainer({ Image: 'tiny', Cmd: ['cat'], OpenStdin: true, StdinOnce: true, name: 'cat' });
  const attached = await cat.attach({ stream: true, stdin: true, stdout: true, stderr: true, hijack: true });
  const copied = new PassThrough();
  cat.modem.demuxStream(attached, copied, copied);
  attached.on('end', () => copied.end());
  await cat.start();
  attached.write('typed\n');
  attached.end();
  assert.strictEqual(await text(copied), 'typed\n');
  assert.strictEqual((await cat.wait()).StatusCode, 0);

  // exec, stats, logs, archives, commit, export of one that runs.
  const box = await docker.createContainer({
    Image: 'tiny', Cmd: ['sh', '-c', 'echo started; exec sleep 1000'], name: 'box', Labels: { by: 'dockerode' },
    ExposedPorts: { '80/tcp': {} }, HostConfig: { PortBindings: { '80/tcp': [{}] }, Memory: 64 << 20 },
  });
  await box.start();
  const exec = await box.exec({ Cmd: ['sh', '-c', 'cat; exit 5'], AttachStdin: true, AttachStdout: true, AttachStderr: true });
  const stream = await exec.start({ hijack: true, stdin: true });
  const execOut = new PassThrough();
  docker.modem.demuxStream(stream, execOut, execOut);
  stream.on('end', () => execOut.end());
  stream.write('to exec'); stream.end();
  assert.strictEqual(await text(execOut), 'to exec');
  assert.strictEqual((await exec.inspect()).ExitCode, 5);
  const stats = await box.stats({ stream: false });
  assert.strictEqual(stats.memory_stats.limit, 64 << 20);
  const logs = await box.logs({ stdout: true, stderr: true });
  assert.ok(logs.toString().includes('started'));
  const archive = await box.getArchive({ path: '/etc/passwd' });
  const bytes = await text(archive);
  assert.ok(bytes.includes('root:'));
  await box.putArchive(Buffer.alloc(1024), { path: '/tmp' });
  assert.ok((await box.inspect()).NetworkSettings.Ports['80/tcp'][0].HostPort > 0);
  assert.deepStrictEqual((await docker.listContainers({ filters: { label: ['by=dockerode'] } })).map((c) => c.Names[0]), ['/box']);
  await box.commit({ repo: 'committed', tag: '1' });
  assert.strictEqual((await docker.getImage('committed:1').inspect()).Config.Labels.by, 'dockerode');
  await box.update({ Memory: 32 << 20, MemorySwap: 64 << 20 });
  await box.rename({ name: 'renamed' });
  const top = await box.top();
  assert.ok(top.Processes.some((line) => line.join(' ').includes('sleep 1000')));
  await box.resize({ h: 10, w: 10 }).catch(() => {});
  await box.pause(); await box.unpause(); await box.restart({ t: 0 }); await box.stop({ t: 0 });

  // A build from a folder, followed to its end.
  const build = await docker.buildImage({ context: __dirname + '/context', src: ['Dockerfile', 'file'] }, { t: 'built:1' });
  const steps = await new Promise((resolve, reject) => docker.modem.followProgress(build, (e, all) => (e ? reject(e) : resolve(all))));
  assert.ok(steps.some((step) => (step.stream || '').includes('Successfully tagged built:1')), JSON.stringify(steps));
  const saved = await docker.getImage('built:1').get();
  await docker.getImage('built:1').remove();
  const loaded = await docker.loadImage(saved);
  await new Promise((resolve, reject) => docker.modem.followProgress(loaded, (e) => (e ? reject(e) : resolve())));
  await docker.getImage('built:1').tag({ repo: 'again', tag: '2' });

  const volume = await docker.createVolume({ Name: 'kept', Labels: { a: 'b' } });
  assert.strictEqual((await docker.getVolume('kept').inspect()).Labels.a, 'b');
  const network = await docker.createNetwork({ Name: 'joined', Internal: true });
  await network.connect({ Container: 'renamed', EndpointConfig: { Aliases: ['other'] } });
  assert.strictEqual((await network.inspect()).Internal, true);
  await network.disconnect({ Container: 'renamed' });
  await network.remove();
  await docker.getVolume('kept').remove();

  await assert.rejects(docker.getContainer('nobody').inspect(), (e) => e.statusCode === 404 && e.json.message === 'No such container: nobody');
  await assert.rejects(docker.createContainer({ Image: 'nothing' }), (e) => e.statusCode === 404);
  await cat.remove(); await box.remove({ force: true, v: true });
  for (const action of ['create', 'attach', 'start', 'die', 'destroy', 'rename', 'commit']) {
    assert.ok(seen.includes(action), `${action} in ${seen}`);
  }
  events.destroy();
  console.log('done');
}

main().catch((error) => { console.error(error); process.exit(1); });
