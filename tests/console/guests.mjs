// Guests of a few hundred bytes, as in tests/e2e/tests/machines/guests.rs, where each instruction is explained.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

const code = (hex) => Buffer.from(hex.replaceAll(' ', ''), 'hex');

function disk(root, name, program) {
  const bytes = Buffer.alloc(1 << 20);
  program.copy(bytes);
  bytes.set([0x55, 0xaa], 510);
  const path = join(root, name);
  writeFileSync(path, bytes);
  return path;
}

/** Says `boot A`, `boot B`, … on its serial line, a letter further at each boot, and sends back what it reads; `q`: off. */
export const counter = (root) => disk(root, 'counter.raw', Buffer.concat([code([
  '31c0 8ed8 8ec0 8ed0 bc007c 8816f07d b80102 bb007e b90200 b600 cd13 fe06007e b80103 bb007e b90200 8a16f07d b600 cd13 fa',
  'be777c ac 84c0 7405 e82a00 ebf6 a0007e 0440 e82000 b00a e81b00 bafd03 ec a801 74f8 b2f8 ec 3c71 7507 ba0406 b80020 ef e80200 ebe5',
  '88c4 bafd03 ec a820 74fb b2f8 88e0 ee c3',
].join(' ')), Buffer.from('boot \0')]));

/** Paints its screen red, says `D`, and then every key that is pressed, on its serial line. */
export const painter = (root) => disk(root, 'painter.raw', code(
  '31c0 8ed8 8ed0 bc007c b81300 cd10 b800a0 8ec0 31ff b80404 b9007d f3ab b044 e80900 b400 cd16 e80200 ebf7 e80200 b00a 88c4 bafd03 ec a820 74fb b2f8 88e0 ee c3',
));
