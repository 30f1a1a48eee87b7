// Compose files to begin with. Passwords are asked for by being wrong: nobody's database starts with one that all know.

export interface Starter { name: string; about: string; images: string[]; text: string }

const database = (name: string, image: string, variable: string, folder: string, check: string): string => `services:
  ${name}:
    image: ${image}
    restart: unless-stopped
    environment:
      ${variable}: CHANGE-ME
    volumes: ["data:${folder}"]
    healthcheck:
      test: ["CMD-SHELL", "${check}"]
      interval: 5s
      retries: 20
    mem_limit: 1g
volumes:
  data: {}
`;

export const STARTERS: Starter[] = [
  { name: 'PostgreSQL', about: 'a database, with its data in a volume', images: ['postgres:17'], text: database('postgres', 'postgres:17', 'POSTGRES_PASSWORD', '/var/lib/postgresql/data', 'pg_isready -U postgres') },
  { name: 'MariaDB', about: 'a database, with its data in a volume', images: ['mariadb:11'], text: database('mariadb', 'mariadb:11', 'MARIADB_ROOT_PASSWORD', '/var/lib/mysql', 'healthcheck.sh --connect --innodb_initialized') },
  {
    name: 'Web and database', about: 'a web server that waits until its database is well', images: ['nginx:1.29', 'postgres:17'],
    text: `${database('db', 'postgres:17', 'POSTGRES_PASSWORD', '/var/lib/postgresql/data', 'pg_isready -U postgres').replace('volumes:\n  data', `  web:
    image: nginx:1.29
    restart: unless-stopped
    ports: ["127.0.0.1:8080:80"]
    depends_on:
      db: { condition: service_healthy }
volumes:
  data`)}`,
  },
  {
    name: 'Registry', about: 'images of your own, for other hosts', images: ['registry:3'],
    text: 'services:\n  registry:\n    image: registry:3\n    restart: unless-stopped\n    ports: ["127.0.0.1:5000:5000"]\n    volumes: ["images:/var/lib/registry"]\nvolumes:\n  images: {}\n',
  },
];
