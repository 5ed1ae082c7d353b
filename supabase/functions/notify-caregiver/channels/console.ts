/** For development: prints a message as one line on standard output. */
import type { Channel } from "../channel.ts";

const print: Channel = (delivery) => {
  const line = `${delivery.level} for ${delivery.address}: ${delivery.message}`;
  // deno-lint-ignore no-control-regex -- so that a message stays on its line
  globalThis.console.log(line.replace(/[\0-\x1f\x7f-\x9f\u2028\u2029]+/g, " "));
  return Promise.resolve(null);
};

export { print as console };
