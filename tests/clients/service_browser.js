// Chromium opens a service of a box, by both of its URLs, and its page tries the API. Arguments: browser_url, embed_url, the API's origin.
const {chromium} = require('playwright-core');

async function main() {
  const [browserUrl, embedUrl, api] = process.argv.slice(2);
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--no-first-run'],
  });
  const found = {};
  const shown = async url => {
    const page = await (await browser.newContext()).newPage();
    page.setDefaultTimeout(60000);
    await page.goto(url);
    await page.waitForFunction(() => document.title === '/hello');
    return page;
  };
  const page = await shown(browserUrl);
  found.title = await page.title();
  found.url = page.url();
  found.cookies = await page.evaluate(() => document.cookie);
  found.api = await page.evaluate(api => fetch(api + '/health').then(() => 'answered', () => 'refused'), api);
  found.embedded = await (await shown(embedUrl)).title();
  console.log(JSON.stringify(found));
  await browser.close();
}
main().catch(error => { console.error(String(error)); process.exit(1); });
