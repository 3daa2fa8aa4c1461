"""`python -m stream_ad` is `stream-ad`."""

from stream_ad.cli import main

if __name__ == "__main__":
    main()
